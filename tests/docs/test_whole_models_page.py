"""The page about whole layers and models runs, and prints what it says."""

import re
from pathlib import Path

import pytest

from tests.docs.test_readme import run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "whole_models.md"


def test_the_page_runs_and_tells_the_truth(capsys):
    pytest.importorskip("transformers", reason="the page inspects models of transformers")
    assert run(PAGE) == 5
    told = capsys.readouterr().out.splitlines()
    said = re.findall(r"^ {4}(\S.*)$", re.sub(r"^```.*?^```$", "", PAGE.read_text("utf-8"),
                                              flags=re.M | re.S), re.M)  # fmt: skip
    assert said
    assert [_rounded(line) for line in told] == [_rounded(line) for line in said]


def _rounded(line):
    """Rounding errors differ from machine to machine."""
    return re.sub(r"exact to \S+", "exact", line)
