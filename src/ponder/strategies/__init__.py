"""Ways to spend compute on one question; one idea a file, each a page on `ponder.run.Run`."""
