"""Every claim of the papers: the ids, the verdicts on record, and that each check can fail."""

import pytest

from dsf import claims
from dsf.certificates import Verdict
from tests.claims import (
    breaks_coefficient_dynamics,
    breaks_dynamical_systems,
    breaks_eigenvalues,
    breaks_in_line,
    breaks_meta_linear,
    breaks_zero_sum,
)

HOW_MANY = {"DSF": 37, "CDY": 10, "EIG": 9, "INL": 27, "MLA": 42, "ZER": 40}
BREAKS = {
    **breaks_coefficient_dynamics.BREAKS,
    **breaks_dynamical_systems.BREAKS,
    **breaks_eigenvalues.BREAKS,
    **breaks_in_line.BREAKS,
    **breaks_meta_linear.BREAKS,
    **breaks_zero_sum.BREAKS,
}


def test_no_claim_is_left_out():
    expected = [f"{paper}-{k}" for paper, many in HOW_MANY.items() for k in range(1, many + 1)]
    assert [claim.id for claim in claims.ALL] == expected


@pytest.mark.parametrize("claim", claims.ALL, ids=lambda claim: claim.id)
def test_the_verdict_is_the_one_on_record(claim):
    outcome = claims.decide(claim)
    assert outcome.as_recorded, str(outcome.certificate)
    assert claim.statement.endswith(".")
    if claim.expected is Verdict.UNKNOWN:
        assert outcome.certificate.limits


@pytest.mark.parametrize(
    "claim",
    [claim for claim in claims.ALL if claim.expected is not Verdict.UNKNOWN],
    ids=lambda claim: claim.id,
)
def test_every_check_can_fail(claim):
    """One sign, index or scale changed in what is checked, and the verdict is another one."""
    assert BREAKS[claim.id]().verdict is not claim.expected


def test_no_break_is_left_over():
    assert set(BREAKS) <= {claim.id for claim in claims.ALL}
