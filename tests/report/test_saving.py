"""A file is replaced whole or left as it was."""

import os
from pathlib import Path

import pytest

from dsf.report import draw_grid, show
from dsf.runtime.files import replace_file


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(draft):
        draft.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_nothing_is_written_when_a_map_cannot_be_made(inspected, tmp_path, monkeypatch):
    import dsf

    inspection = inspected(dsf.mixers.DeltaNet)
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr("dsf.report.views.views", fail)
    with pytest.raises(MemoryError, match="no room"):
        show(inspection, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="name of a file"):
        replace_file(tmp_path, Path.touch)


def test_missing_folders_are_made(tmp_path):
    path = replace_file(tmp_path / "a" / "b" / "c.txt", lambda draft: draft.write_text("new"))
    assert path.read_text() == "new"


def test_an_inspection_without_layers_has_no_picture(inspected, tmp_path):
    with pytest.raises(ValueError, match="no layer"):
        draw_grid(inspected(), tmp_path / "maps.png")
    assert os.listdir(tmp_path) == []
