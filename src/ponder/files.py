"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`: a file beside it, which takes its place once the block has ended well.

    Of a link, what it points to is replaced. A device or a pipe has no place to take and is itself what is written to. Nothing stays of a block
    that raises. Raises `OSError`.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        yield place
        return
    part = place.with_name(place.name + ".part")
    try:
        yield part
        part.replace(place)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)  # a full disk has no room for half a file
        raise
