"""Every refuted sentence with the one hypothesis that decides: with it restored nothing falls."""

import pytest

from dsf import claims
from dsf.certificates import Verdict
from dsf.claims.meta_linear import augmentation, classification, queries, tables
from dsf.claims.meta_linear.printed_tables import MORE_COMMONSENSE, SUPER_GLUE
from dsf.claims.zero_sum import angle, reachable
from dsf.mixers import HGRN2

REFUTED = {claim.id: claim for claim in claims.ALL if claim.expected is Verdict.REFUTED}


def hgrn(mixer):
    """HGRN, which the paper's table has: the recurrence without queries."""
    return HGRN2(query=mixer.query * 0 + 1, decay=mixer.decay, value=mixer.value)


def at_300_billion(table):
    return {name: row for name, row in table.items() if "300B" in name}


def with_a_gate(probabilities):
    """Another factor than 1 on the deviations."""
    return 1.5 * reachable.centred(probabilities)


RESTORED = {
    "MLA-8": ("keys that are not negative", lambda: queries.without_queries(signed=False)),
    "MLA-16": (
        "no sigmoid around the augmentation",
        lambda: augmentation.parallel_form_is_the_layer(squash=lambda own: own),
    ),
    "MLA-22": ("a model of the paper's table", lambda: classification.none_existing(hgrn)),
    "MLA-29": ("Table 4 only", lambda: tables.ahead_everywhere({"4": SUPER_GLUE})),
    "MLA-30": (
        "keys that are not negative",
        lambda: queries.key_and_decay_suffice(signed=False),
    ),
    "ZER-8": (
        "a zero order of exactly 1",
        lambda: reachable.softmax_reaches_the_affine_hull(zero_order=1.0),
    ),
    "ZER-17": ("no cosine", lambda: angle.angle_keeps_the_zero_sum(angle=False)),
    "ZER-27": ("a gate other than 1", lambda: reachable.subtraction_enlarges(with_a_gate)),
}


def test_no_refuted_sentence_is_left_out():
    assert set(RESTORED) == set(REFUTED)


@pytest.mark.parametrize("id", REFUTED)
def test_the_sentence_falls_as_it_stands(id):
    certificate = REFUTED[id].check()
    assert certificate.verdict is Verdict.REFUTED
    assert certificate.witness


@pytest.mark.parametrize("id", RESTORED)
def test_with_the_hypothesis_it_does_not_fall(id):
    words, check = RESTORED[id]
    assert words
    assert check().verdict is not Verdict.REFUTED


def test_at_the_largest_number_of_tokens_metala_is_ahead():
    found = tables.ahead_everywhere({"A5": at_300_billion(MORE_COMMONSENSE)})
    assert found.verdict is Verdict.UNKNOWN
