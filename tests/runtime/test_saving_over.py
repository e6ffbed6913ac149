"""Files are put in the place of files, and of nothing else."""

import os

import pytest

from dsf.runtime.files import replace_file, write_over

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    """``--out /dev/null`` would take /dev/null away from every program."""
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(ValueError, match="pipe"):
        replace_file(place, lambda draft: draft.write_text("a"))
    assert place.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_text_goes_through_a_link_and_replaces_a_file(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    write_over(file, "one")
    write_over(link, "two")
    assert (file.read_text(), link.is_symlink()) == ("two", True)
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_text_that_cannot_be_written_leaves_the_old(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_over(file, "old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_over(file, "new")
    assert caught.value.filename == str(file)
    assert file.read_bytes() == b"old"
