"""Every check gives the verdict on record, and another one when its formula is changed."""

import pytest

import papers
from papers.meta_linear import checks as mla
from papers.verdicts import CHECKS
from papers.zero_sum import checks as zer
from tests.papers.mutants import HYPOTHESES, LAYERS, MUTANTS

DECIDED = [statement for statement in papers.ALL if statement.expected != "UNKNOWN"]
OPEN = [statement for statement in papers.ALL if statement.expected == "UNKNOWN"]


def id_of(statement):
    return statement.id


@pytest.mark.parametrize("statement", papers.ALL, ids=id_of)
def test_the_verdict_is_the_one_on_record(statement):
    outcome = papers.decide(statement)
    assert outcome.as_recorded, str(outcome.certificate)
    papers.plain(outcome.facts())


@pytest.mark.parametrize("statement", DECIDED, ids=id_of)
def test_a_check_notices_another_formula(statement):
    """One sign, index or scale changed in what is checked, and the verdict is another one."""
    assert MUTANTS[statement.id]().verdict.value != statement.expected


def test_every_statement_is_checked_or_says_what_it_would_take():
    assert set(CHECKS) == {statement.id for statement in DECIDED} == set(MUTANTS)
    assert [statement.id for statement in OPEN if not statement.open] == []


def test_every_statement_of_a_paper_says_which_hypothesis_its_changed_case_breaks():
    assert set(HYPOTHESES) == {each.id for each in DECIDED if each.table == "paper"}


@pytest.mark.parametrize("part", LAYERS)
def test_a_check_about_a_layer_notices_another_layer(part):
    assert LAYERS[part]().verdict.value == "UNKNOWN"


RESTORED = {
    "MLA-8": lambda: mla.without_queries(signed=False),
    "MLA-30": lambda: mla.key_and_decay_suffice(signed=False),
    "ZER-8": lambda: zer.softmax_reaches_the_affine_hull(zero_order=1.0),
    "ZER-17": lambda: zer.angle_keeps_the_zero_sum(angle=False),
}
"""Every refuted sentence with the one hypothesis that decides: restored, nothing falls."""


def test_no_refuted_sentence_is_left_out():
    refuted = {statement.id for statement in papers.ALL if statement.expected == "REFUTED"}
    assert set(RESTORED) == refuted


@pytest.mark.parametrize("id", RESTORED)
def test_with_its_hypothesis_a_sentence_does_not_fall(id):
    assert RESTORED[id]().verdict.value != "REFUTED"
