"""Symbolic identities hold, and stop holding when a formula is bent."""

import pytest

from dsf.certificates import Verdict, identities


@pytest.mark.parametrize("identity", identities.IDENTITIES, ids=lambda f: f.__name__)
def test_the_identity_is_proved(identity):
    found = identity()
    assert found.verdict is Verdict.ARGUED
    assert found.claim


@pytest.mark.parametrize(
    "identity", [identities.in_line_sums_to_one, identities.centred_sums_to_zero]
)
def test_another_row_is_not_proved(identity):
    assert identity(row=lambda scores: scores).verdict is Verdict.UNKNOWN


def test_rows_are_not_exchanged():
    assert identities.in_line_sums_to_one(identities.centred_row).verdict is Verdict.UNKNOWN


def test_the_scope_is_part_of_the_claim():
    assert "any number of tokens" in identities.in_line_sums_to_one().claim
    assert "2 tokens, 3 states" in identities.basis_leaves_the_map(2, 3).claim
