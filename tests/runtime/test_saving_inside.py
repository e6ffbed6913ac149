"""Files inside a folder that comes from anywhere: no link is followed, nothing outside changes."""

import errno
import os

import pytest

from dsf.runtime import files as saving
from dsf.runtime.files import (
    LeadsOutside,
    names_inside,
    read_inside,
    remove_drafts,
    remove_inside,
    replace_file,
    write_inside,
)


@pytest.fixture
def run(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.txt").write_text("theirs")
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_what_is_written_is_read_and_removed(run):
    path = write_inside(run, "units/0000/a.txt", b"one")
    write_inside(run, "units/0000/a.txt", b"two")
    assert path.read_bytes() == read_inside(run, "units/0000/a.txt", 3) == b"two"
    assert names_inside(run, "units/0000") == ["a.txt"]
    assert names_inside(run, "units/none") == []
    with pytest.raises(ValueError, match="2 bytes"):
        read_inside(run, "units/0000/a.txt", 2)
    remove_inside(run, "units/0000/a.txt")
    remove_inside(run, "units/0000/a.txt")
    assert names_inside(run, "units/0000") == []
    with pytest.raises(FileNotFoundError):
        read_inside(run, "units/0000/a.txt", 2)


def linked_folder(run):
    (run / "units").symlink_to(run.parent / "outside")


def linked_file(run):
    (run / "units").mkdir()
    (run / "units" / "a.txt").symlink_to(run.parent / "outside" / "a.txt")


def pipe(run):
    (run / "units").mkdir()
    os.mkfifo(run / "units" / "a.txt")


def folder_for_file(run):
    (run / "units" / "a.txt").mkdir(parents=True)


def file_for_folder(run):
    (run / "units").write_text("")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (linked_folder, "a link"),
        (linked_file, "a link"),
        (pipe, "not a plain file"),
        (folder_for_file, "not a plain file"),
        (file_for_folder, "not a folder"),
    ],
)
def test_only_plain_files_and_folders(run, plant, kind):
    plant(run)
    for do in (
        lambda: write_inside(run, "units/a.txt", b"ours"),
        lambda: read_inside(run, "units/a.txt", 100),
        lambda: remove_inside(run, "units/a.txt"),
    ):
        with pytest.raises(LeadsOutside, match=kind):
            do()
    assert (run.parent / "outside" / "a.txt").read_text() == "theirs"
    assert os.listdir(run.parent / "outside") == ["a.txt"]


@pytest.mark.parametrize("name", ["../outside/a.txt", "/a.txt", "units//a", "units/../../a", ""])
def test_names_stay_inside(run, name):
    for do in (lambda: write_inside(run, name, b""), lambda: read_inside(run, name, 9)):
        with pytest.raises(LeadsOutside, match="plain name"):
            do()
    assert (run.parent / "outside" / "a.txt").read_text() == "theirs"


def test_a_failing_write_leaves_the_old_file_and_no_draft(run, monkeypatch):
    write_inside(run, "a.txt", b"old")

    def fail(*_arguments, **_named):
        raise OSError("disk full")

    monkeypatch.setattr(saving.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_inside(run, "a.txt", b"new")
    assert os.listdir(run) == ["a.txt"]
    assert (run / "a.txt").read_bytes() == b"old"


def test_only_our_own_drafts_are_removed(run):
    (run / "units").mkdir()
    ours = f".dsf-{'0f' * 16}.draft.png"
    theirs = [".x.tmp-y", ".a.tmp-1.json", ".dsf-notes.draft", ".dsf-0f.draft"]
    for name in (ours, *theirs):
        (run / "units" / name).write_text("half")
        (run / name).write_text("half")
    remove_drafts(run, "units")
    remove_drafts(run, "")
    assert names_inside(run, "units") == sorted(theirs)
    assert names_inside(run, "") == sorted([*theirs, "units"])


def test_a_draft_is_new_and_has_a_name_that_nobody_knows(tmp_path):
    seen = []
    for _ in range(2):
        replace_file(tmp_path / "page.html", seen.append)
    assert seen[0] != seen[1]
    assert all(saving._DRAFT.fullmatch(draft.name) for draft in seen)
    assert all(draft.suffix == ".html" for draft in seen)


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "page.html").symlink_to(tmp_path / "theirs")
    replace_file(tmp_path / "page.html", lambda draft: draft.write_text("ours"))
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "page.html").is_symlink()


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    """The system names a file where it is opened, not where it is written."""

    def fill(_draft):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as raised:
        replace_file(tmp_path / "report.html", fill)
    assert raised.value.filename == str(tmp_path / "report.html")


def test_so_is_one_inside_a_folder(tmp_path, monkeypatch):
    def fill(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fill)
    with pytest.raises(OSError, match="No space left") as raised:
        write_inside(tmp_path, "units/0.json", b"{}")
    assert raised.value.filename == str(tmp_path / "units/0.json")
    assert list((tmp_path / "units").iterdir()) == []
