"""Files are put in the place of files, and of nothing else."""

import os

import pytest

from dsf.runtime.files import replace_file

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    """``--out /dev/null`` would take /dev/null away from every program."""
    place = tmp_path / "pipe"
    os.mkfifo(place)
    with pytest.raises(ValueError, match="pipe"):
        replace_file(place, lambda draft: draft.write_text("a"))
    assert place.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]
