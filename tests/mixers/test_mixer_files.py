"""Every mixer has a file, a place in the tuple and a reference."""

import re
from pathlib import Path

import dsf
from tests.mixers.mixer_fields import snake

# Files that hold what the converters share.
SHARED = {"__init__", "base", "drawing"}


REFERENCES = Path(__file__).resolve().parents[1] / "references"


def test_every_file_has_its_place():
    """A converter that is not listed would not be tested, and one without a reference neither."""
    folder = Path(dsf.mixers.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - SHARED
    references = {path.stem for path in REFERENCES.glob("*.py")}
    listed = {cls.__module__.rpartition(".")[-1] for cls in dsf.mixers.ALL}
    assert files == listed
    assert references == {snake(cls.__name__) for cls in dsf.mixers.ALL}
    assert len(set(dsf.mixers.ALL)) == len(dsf.mixers.ALL)


def test_references_import_nothing_of_ours():
    for path in REFERENCES.glob("*.py"):
        assert not re.search(r"^\s*(import|from) dsf", path.read_text(), re.M), path.name
