"""A file appears whole or not at all; links and devices stay what they are."""

import os
import threading

import pytest

from ponder.files import whole


def test_a_file_appears_when_the_block_has_ended(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with whole(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_nothing_stays_of_a_block_that_raises(tmp_path, error):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fails(part):
        part.write_text("half")
        raise error

    with pytest.raises(error), whole(file) as part:
        fails(part)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "link"
    file.write_text("old")
    link.symlink_to(file)
    with whole(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with whole(pipe) as part:
        part.write_text("through")
    reader.join()
    assert read == ["through"]
    assert pipe.is_fifo()
