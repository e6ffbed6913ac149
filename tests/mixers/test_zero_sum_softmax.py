"""What zero-sum attention on scores of pairs is in its special cases."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf import mixers
from dsf.runtime.shapes import ShapeError
from tests.mixers.mixer_fields import draw
from tests.references.zero_sum_softmax_attention import reference


def weights(mixer):
    return dsf.attention_map(mixer.system())


def with_orders(mixer, zero, first, higher):
    one = torch.ones_like(mixer.first_order)
    return replace(mixer, zero_order=zero * one, first_order=first * one, higher_order=higher * one)


@pytest.mark.parametrize("causal", [True, False])
def test_all_orders_are_softmax(causal):
    full = with_orders(replace(draw(mixers.ZeroSumSoftmaxAttention, 9), causal=causal), 1, 1, 1)
    softmax = mixers.SoftmaxAttention(
        query=full.query, key=full.key, value=full.value, scale=full.scale, causal=causal
    )
    torch.testing.assert_close(weights(full), weights(softmax), rtol=0, atol=1e-14)


def test_zero_and_first_order_are_in_line():
    full = with_orders(draw(mixers.ZeroSumSoftmaxAttention, 9), 1, 1, 0)
    tokens = torch.arange(1, 10, dtype=torch.float64)[:, None]
    in_line = mixers.InLineAttention(
        query=full.query * full.scale / tokens, key=full.key, value=full.value
    )
    torch.testing.assert_close(weights(full), weights(in_line), rtol=0, atol=1e-14)


def test_rows_sum_to_the_zero_order_or_to_zero():
    full = draw(mixers.ZeroSumSoftmaxAttention, 9)
    torch.testing.assert_close(weights(full).sum(dim=-1), full.zero_order, rtol=0, atol=1e-13)
    sums = weights(replace(full, zero_order=None)).sum(dim=-1)
    assert sums.abs().max() < 1e-13


def test_it_may_read_another_sequence_when_it_reads_all():
    full = draw(mixers.ZeroSumSoftmaxAttention, 9)
    orders = {
        name: getattr(full, name)[..., :4] for name in ("zero_order", "first_order", "higher_order")
    }
    across = replace(full, query=full.query[:, :4], scale=None, causal=False, **orders)
    ours = dsf.respond(across.system(), across.signal()).squeeze(-2)
    torch.testing.assert_close(ours, reference(across), rtol=0, atol=1e-13)
    with pytest.raises(ShapeError, match="causal"):
        replace(across, causal=True)
