"""What a fresh clone receives is its own: no link to a folder of somebody's machine."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINK = "120000"


def test_no_link_is_tracked():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a clone and git")
    listed = ["git", "-C", str(ROOT), "ls-files", "--stage"]
    done = subprocess.run(listed, check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) > 100
    assert [line for line in done.stdout.splitlines() if line.startswith(LINK)] == []


@pytest.mark.parametrize("name", [".venv", ".fla", ".pretrained"])
def test_links_to_what_is_made_once_are_ignored_like_folders(name):
    """A pattern that ends in a slash would leave a link to be added."""
    lines = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert name in lines
