"""Reduction and verdicts on every head of the embedded models."""

import pytest
import torch

import dsf
from dsf import measures, models
from dsf.certificates import Verdict
from dsf.models import recall
from dsf.properties.decided import findings

DECIDED = (Verdict.PROVED, Verdict.REFUTED, Verdict.NOT_APPLICABLE)


@pytest.fixture(scope="module", params=models.NAMES)
def inspection(request):
    prompt = recall.draw(torch.Generator().manual_seed(3), samples=1).tokens
    return dsf.inspect(models.folder(request.param), input_ids=prompt)


@pytest.mark.parametrize("order", [1, 4])
def test_reductions_of_trained_heads_stay_within_their_bound(inspection, order):
    for layer in inspection:
        reduction = dsf.evaluate.reduce(layer.map().flatten(0, -3), order=order)
        assert (reduction.error <= reduction.bound).all()
        assert reduction.order <= order


def test_states_needed_by_trained_heads(inspection):
    for layer in inspection:
        map = layer.map().flatten(0, -3)[:16]
        order = measures.states_needed(map, error=0.05)
        assert (order <= map.shape[-1] // 2).all()
        worst = dsf.evaluate.reduce(map, order=max(int(order.max()), 1))
        assert (worst.error <= 0.05 * worst.size * (1 + 1e-9)).all()


def test_a_head_needs_no_more_states_than_it_has(inspection):
    for layer in inspection:
        map = layer.map().flatten(0, -3)[:16]
        ranks = measures.hankel_ranks(map, tolerance=1e-9)
        assert (ranks <= min(layer.system.state_size, map.shape[-1] // 2)).all()


def test_every_head_of_softmax_attention_is_decided(inspection):
    for layer in inspection:
        found = list(findings(layer))
        assert {f.property for f in found} >= {"causal", "nonnegative", "sums_to_one"}
        for finding in found:
            assert finding.certificate.verdict in DECIDED, finding
            if finding.property == "causal":
                assert finding.certificate.verdict is Verdict.PROVED
