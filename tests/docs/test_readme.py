"""The Python blocks of the README run, from top to bottom, as one reader would type them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[int, str]]:
    """Every Python block of a page with the number of the line before it."""
    text = page.read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found[1]) for found in BLOCK.finditer(text)]


def run(page: Path) -> int:
    """Run all blocks in one namespace, under their own line numbers, and count them."""
    names: dict[str, object] = {"__name__": "__main__"}
    found = blocks(page)
    for line, block in found:
        exec(compile("\n" * line + block, str(page), "exec"), names)
    return len(found)


def test_the_readme_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the README inspects a model of transformers")
    monkeypatch.chdir(tmp_path)
    assert run(ROOT / "README.md") >= 3


def test_a_broken_block_is_noticed_at_its_own_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(page)
    assert caught.traceback[-1].lineno + 1 == 8


def test_files_that_the_readme_names_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_that_the_pages_name_exist():
    text = "".join(
        (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md")
    )
    asked = [sys.executable, "-m", "dsf", "--help"]
    known = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    commands = set(re.findall(r"^    dsf (\w+)", text, re.MULTILINE))
    assert commands
    assert commands <= set(known)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) <= targets
