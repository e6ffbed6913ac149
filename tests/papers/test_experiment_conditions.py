"""The classification of mixers: where coefficients come from, and what the page says."""

import json

import pytest

from dsf import mixers
from papers.meta_linear.experiments.conditions import figure, found, page, printed, run

HELD = json.loads((run.FOLDER / "results.json").read_text(encoding="utf-8"))["mixers"]


@pytest.fixture(scope="module")
def sources():
    return dict(found.sources())


def test_every_mixer_is_there_and_the_ones_printed_are_mixers():
    assert list(HELD) == [mixer.__name__ for mixer in mixers.ALL]
    assert set(printed.PRINTED) <= set(HELD)


def test_a_layer_is_preferred_and_a_bias_of_positions_is_not_computed(sources):
    assert sources[mixers.SoftmaxAttention].layer == "SoftmaxAttention"
    assert sources[mixers.SoftmaxAttention].computed == ("query", "key")
    assert sources[mixers.RWKV4].layer is None


def test_the_results_are_those_of_the_code(sources):
    """Two rows again; all of them take seconds."""
    for mixer in (mixers.MetaLinearAttention, mixers.RWKV4):
        again = found.classify(sources[mixer].draw, sources[mixer].computed)
        assert again.letters == HELD[mixer.__name__]["letters"]
        assert found.groups(again) == HELD[mixer.__name__]["groups"]


def test_another_letter_than_the_paper_s_is_marked():
    changed = {**HELD, "HGRN": {**HELD["HGRN"], "letters": "yyyn"}}
    assert list(page.disagreements(HELD)) == []
    assert list(page.disagreements(changed)) == ["HGRN"]
    marked = [line for line in page.findings(changed).splitlines() if "≠" in line]
    assert len(marked) == 1
    assert marked[0].startswith("| HGRN |")


def test_the_page_holds_the_table_of_the_results():
    assert page.findings(HELD) in (run.FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_figure_is_drawn(tmp_path):
    few = {name: HELD[name] for name in ("HGRN", "InLineAttention", "SoftmaxAttention")}
    figure.draw(few, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
