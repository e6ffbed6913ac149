"""Every check gives the verdict on record, and another one when its formula is changed."""

import pytest

import papers
from papers.meta_linear import checks as mla
from papers.verdicts import CHECKS
from papers.zero_sum import checks as zer
from tests.papers.mutants import MUTANTS

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


RESTORED = {
    "MLA-8": lambda: mla.without_queries(signed=False),
    "MLA-16": lambda: mla.parallel_form_is_the_layer(squash=lambda own: own),
    "MLA-22": lambda: mla.none_existing(
        lambda m: mla.hgrn2(m.__class__(query=m.query * 0 + 1, decay=m.decay, value=m.value))
    ),
    "MLA-29": lambda: mla.ahead_everywhere(("4",)),
    "MLA-30": lambda: mla.key_and_decay_suffice(signed=False),
    "ZER-8": lambda: zer.softmax_reaches_the_affine_hull(zero_order=1.0),
    "ZER-17": lambda: zer.angle_keeps_the_zero_sum(angle=False),
    "ZER-27": lambda: zer.subtraction_enlarges(lambda p: 1.5 * zer.centred(p)),
}
"""Every refuted sentence with the one hypothesis that decides: restored, nothing falls."""


def test_no_refuted_sentence_is_left_out():
    refuted = {statement.id for statement in papers.ALL if statement.expected == "REFUTED"}
    assert set(RESTORED) == refuted


@pytest.mark.parametrize("id", RESTORED)
def test_with_its_hypothesis_a_sentence_does_not_fall(id):
    assert RESTORED[id]().verdict.value != "REFUTED"
