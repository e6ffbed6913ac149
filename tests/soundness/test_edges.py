"""Both checkers say the same at the borders of every rule, and what the rules say."""

from fractions import Fraction

import pytest

from dsf.certificates import checker
from tests.soundness import mutants, second_checker
from tests.soundness.edges import edges, made, row

NEVER_REFUTED = {"softmax_attention_nonnegative"}
"""Shares of exponentials are above zero, whatever is stored."""


PARTS = 10


def said(folder, part):
    """What both checkers say of every tenth edge."""
    for number, bent in list(enumerate(edges()))[part::PARTS]:
        path = bent.written(folder / str(number))
        answers = [mutants.answer(check, path) for check in (checker.check, second_checker.verdict)]
        yield number, bent, *answers


@pytest.mark.sampled
@pytest.mark.parametrize("part", range(PARTS))
def test_both_checkers_say_the_same(part, tmp_path):
    found = list(said(tmp_path, part))
    assert len(found) > 1
    assert [(number, bent.content) for number, bent, one, other in found if one != other] == []


@pytest.mark.nightly
def test_every_claim_is_met_from_both_sides(tmp_path):
    every = [answer for part in range(PARTS) for answer in said(tmp_path, part)]
    decided = {(bent.content["claim"]["name"], answer) for _, bent, answer, _ in every}
    for name, claim in checker.CLAIMS.items():
        assert (name, "rejected") in decided
        assert claim.proof is None or (name, "PROVED") in decided
        refutable = claim.witness is not None and name not in NEVER_REFUTED
        assert refutable == ((name, "REFUTED") in decided)
    assert {answer for *_, answer in every} == {"PROVED", "REFUTED", "rejected"}


@pytest.mark.parametrize(
    ("bent", "verdict"),
    [
        (made("row_sums", "PROVED", {"map": ((1, 2), [0.5, 0.25])}, target=Fraction(1),
              tolerance=Fraction(1, 4)), "PROVED"),
        (made("row_sums", "REFUTED", {"map": ((1, 2), [0.5, 0.25])}, target=Fraction(1),
              tolerance=Fraction(1, 4), witness=row(0)), "rejected"),
        (made("window_mass", "PROVED", {"map": ((2, 2), [1, 0, 0.5, 0.5])}, width=1,
              share=Fraction(1, 2)), "PROVED"),
        (made("nonexpansive", "PROVED", {"key": ((1, 1), [1.0]), "rate": ((1,), [2.0])}), "PROVED"),
        (made("nonexpansive", "PROVED", {"key": ((1, 1), [1.0]), "rate": ((1,), [2.0 + 2**-40])}),
         "rejected"),
        (made("decay", "PROVED", {"log_decay": ((2,), [0.0, 0.0])}, width=2, most=Fraction(1)),
         "PROVED"),
        (made("decay", "PROVED", {"log_decay": ((1,), [0.0])}, width=1, most=Fraction(10) ** 300),
         "PROVED"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("check", [checker.check, second_checker.verdict])
def test_a_bound_that_is_met_exactly(tmp_path, bent, verdict, check):
    assert mutants.answer(check, bent.written(tmp_path)) == verdict


@pytest.mark.parametrize("name", list(mutants.MODULES))
def test_limits_and_far_exponentials_are_those_of_the_page(name):
    module = mutants.MODULES[name]
    assert mutants.keeps_limits(module, name)
    assert mutants.is_bounded(module, name)
    assert mutants.encloses(module, name)
