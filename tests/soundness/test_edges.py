"""Both checkers say the same at the borders of every rule, and what the rules say."""

import time
from fractions import Fraction
from pathlib import Path

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


NEGATIVE = {"map": ((2, 2), [1.0, 0.0, -1.0, 1.0])}


@pytest.mark.parametrize("batch", [{}, "", None, 0, False])
@pytest.mark.parametrize("check", [checker.check, second_checker.verdict])
def test_the_axes_of_a_witness_are_a_list(tmp_path, check, batch):
    bent = made("nonnegative", "REFUTED", NEGATIVE, witness={"batch": batch, "row": 1})
    assert mutants.answer(check, bent.written(tmp_path)) == "rejected"


@pytest.mark.parametrize("check", [checker.check, second_checker.verdict])
def test_a_certificate_named_from_inside_its_folder(tmp_path, monkeypatch, check):
    path = made("nonnegative", "REFUTED", NEGATIVE, witness=row(1)).written(tmp_path)
    monkeypatch.chdir(path.parent)
    assert mutants.answer(check, Path(path.name)) == "REFUTED"


@pytest.mark.parametrize("name", list(mutants.MODULES))
def test_limits_and_far_exponentials_are_those_of_the_page(name):
    module = mutants.MODULES[name]
    assert mutants.keeps_limits(module, name)
    assert mutants.is_bounded(module, name)
    assert mutants.encloses(module, name)


ZEROS = {"key": ((601, 600), [0.0] * 601 * 600)}
POINT = {"key": ((4000, 4), [3.0, 5.0, 7.0, 9.0] * 4000), "lower": ((4,), [0.0] * 4),
         "upper": ((4,), [0.0] * 4)}  # fmt: skip


@pytest.mark.parametrize(
    "bent",
    [
        made("injective", "PROVED", ZEROS, evidence={"rows": list(range(601))}, first_row=600,
             sink=False),
        made("locality", "REFUTED", POINT, witness={"query": [Fraction(0)] * 4},
             window=[0, 1], scale=Fraction(3**1500, 2**3000), share=Fraction(9, 10),
             box=[Fraction(0)] * 2),
    ],
    ids=["a wide determinant", "a long scale"],
)  # fmt: skip
def test_a_small_file_takes_little_work(bent, tmp_path):
    """Minutes of elimination, or kilobytes for every stored number, are refused beforehand."""
    path = bent.written(tmp_path)
    begin = time.process_time()
    mutants.answer(checker.check, path)
    assert time.process_time() - begin < 5
