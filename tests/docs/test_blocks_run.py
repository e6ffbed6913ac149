"""Every Python block of every page runs, each page from top to bottom, as one reader types it."""

import re
from importlib import import_module
from pathlib import Path

import matplotlib
import pytest

import dsf
from tests.docs.test_readme import BLOCK, blocks, run

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Pages with tests of their own, which also compare what they print.
ELSEWHERE = {"adapters.md", "whole_models.md"}
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if page.relative_to(DOCS).parts[0] not in ("_build", "_generated")
    and page.name not in ELSEWHERE
    and BLOCK.search(page.read_text(encoding="utf-8"))
)
SAID = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
@pytest.mark.usefixtures("our_own_errors")
def test_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="pages inspect models of transformers")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(DOCS.parent / "notebooks")  # as beside the notebooks
    assert run(page) == len(blocks(page)) > 0
    told = capsys.readouterr().out.split()
    said = " ".join(SAID.findall(page.read_text("utf-8"))).split()
    assert said in ([], told)


def test_the_pages_are_found():
    found = {str(page.relative_to(DOCS)) for page in PAGES}
    assert {"index.md", "quickstart.md", "how_to/own_mixer.md", "concepts/gauge.md"} <= found


@pytest.fixture(scope="module")
def gallery():
    pytest.importorskip("docs.building.gallery", reason="needs the checkout")
    return import_module("docs.building.gallery")


def test_the_block_of_the_gallery_runs(mixer_class, gallery):
    page = gallery.page_of(gallery.drawn(mixer_class), "page")
    (block,) = [found[1] for found in BLOCK.finditer(page)]
    names = {}
    exec(block, names)
    assert names["map"].equal(dsf.attention_map(gallery.drawn(mixer_class).system()))
