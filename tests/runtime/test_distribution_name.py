"""What users are told to install is this package: ``dsf`` on a package index is somebody else's."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from dsf.runtime.distribution import NAME, VERSION

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# With options before the name and with quotes around it, and with extras.
OLD_NAME = re.compile(r"""\binstall\s+(?:-\S+\s+)*["'`]?dsf(?![\w/.-])|["'`]dsf\\?\[""")
EXTRAS = re.compile(rf"""(?:{NAME}|["'`]\.)\\?\[([\w,-]+)\\?\]""")


@pytest.fixture(scope="module")
def texts():
    """Every text file under version control, by its path."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout, to tell our files from others")
    found = {}
    for name in filter(None, listed.stdout.decode().split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content:
            found[name] = content.decode("utf-8")
    return found


def test_nobody_is_told_to_install_another_package(texts):
    assert "README.md" in texts
    told = {name: OLD_NAME.findall(text) for name, text in texts.items()}
    assert {name: words for name, words in told.items() if words} == {}


def test_every_extra_that_is_named_exists(texts):
    named = {
        extra
        for text in texts.values()
        for listed in EXTRAS.findall(text)
        for extra in listed.split(",")
    }
    assert {"hf", "proof", "notebooks", "triton"} <= named <= set(PROJECT["optional-dependencies"])


# Put together in the tests, so that this file need not be left out.
TOLD = (
    "pip install {}",
    'pip install "{}[hf]"',
    "pip install -U '{}'",
    r"r'{}\[hf'",
    "``pip install {}``",
    "uv pip install {}, then",
)


@pytest.mark.parametrize("words", TOLD)
def test_the_old_words_are_seen(words):
    assert OLD_NAME.search(words.format("dsf"))


@pytest.mark.parametrize("words", TOLD)
def test_the_new_words_are_not(words):
    assert not OLD_NAME.search(words.format(NAME))
    assert not OLD_NAME.search("pip uninstall dsf")


def test_name_and_release_are_those_of_the_project():
    assert (PROJECT["name"], PROJECT["version"]) == (NAME, VERSION)
