"""What rows of attention maps sum to, and how normalisers behave far out of range."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf import mixers
from dsf.mixers.ingredients import (
    elu_plus_one,
    identity,
    leaky_relu,
    relu,
    second_order,
    softplus,
    squares,
)
from tests.references.zero_sum_attention import reference

STEPS = 12
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def draw(cls, steps=STEPS, seed=0):
    return cls.draw(torch.Generator().manual_seed(seed), steps=steps)


def map_of(mixer):
    return dsf.attention_map(mixer.system())


def assert_same(one, other):
    torch.testing.assert_close(map_of(one), map_of(other), **EXACT)


def fields_of(mixer, *names):
    return {name: getattr(mixer, name) for name in names}


QKV = ("query", "key", "value")


def test_forgetting_nothing_is_softmax_attention():
    fading = draw(mixers.ForgettingAttention)
    plain = mixers.SoftmaxAttention(**fields_of(fading, *QKV, "scale"))
    still = replace(fading, log_decay=torch.zeros_like(fading.log_decay))
    assert_same(still, plain)
    unscaled = replace(fading, scale=None)
    assert_same(unscaled, replace(fading, scale=0.5))


def test_forgetting_everything_starts_afresh():
    """A log decay of minus infinity hides what came before that token, and nothing else."""
    log_decay = draw(mixers.ForgettingAttention).log_decay.clone()
    log_decay[:, 5] = -torch.inf
    cut = replace(draw(mixers.ForgettingAttention), log_decay=log_decay)
    weights = map_of(cut)
    assert not weights[:, 5:, :5].any()
    assert (weights[:, 5:, 5:].tril() > 0).sum() == 2 * 7 * 8 / 2
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]), **EXACT)


@pytest.mark.parametrize("size", [1, 5, 12])
def test_forgetting_adds_up_alike_in_every_window(size):
    fading = draw(mixers.ForgettingAttention)
    blocks = [block.weights for block in dsf.evaluate.row_blocks(fading.system(), size=size)]
    torch.testing.assert_close(torch.cat(blocks, dim=-2), map_of(fading), **EXACT)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "feature_map", [identity, leaky_relu, softplus, second_order, squares], ids=lambda f: f.__name__
)
def test_rows_of_in_line_and_linear_attention_sum_to_one(causal, feature_map):
    for cls in (mixers.InLineAttention, mixers.LinearAttention):
        weights = map_of(replace(draw(cls), feature_map=feature_map, causal=causal))
        torch.testing.assert_close(
            weights.sum(dim=-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-10
        )
        assert (weights.triu(1).abs().max() == 0) == causal


@pytest.mark.parametrize("cls", [mixers.InLineAttention, mixers.LinearAttention])
@pytest.mark.parametrize(
    "options",
    [{}, {"feature_map": relu, "normalised": False}],
    ids=["by default", "not normalised"],
)
def test_attention_over_the_whole_sequence_gives_what_the_paper_says(cls, options):
    if cls is mixers.InLineAttention:
        options = {name: part for name, part in options.items() if name != "normalised"}
    mixer = replace(draw(cls, steps=9), causal=False, **options)
    phi = mixer.feature_map
    scores = phi(mixer.query) @ phi(mixer.key).mT
    if cls is mixers.InLineAttention:
        expected = scores - scores.mean(dim=-1, keepdim=True) + 1 / 9
    else:
        expected = scores / scores.sum(dim=-1, keepdim=True) if mixer.normalised else scores
    torch.testing.assert_close(map_of(mixer), expected, **EXACT)
    for method in (None, dsf.evaluate.recurrent, dsf.evaluate.scan, dsf.evaluate.chunkwise):
        response = dsf.respond(mixer.system(), mixer.signal(), method=method)
        torch.testing.assert_close(response.squeeze(-2), expected @ mixer.value, **EXACT)


def test_elu_plus_one_by_hand_and_far_from_zero():
    """Tiny far below zero rather than zero, and a finite slope where exp would overflow."""
    x = torch.tensor([-50.0, -1.0, 0.0, 2.0, 1000.0], dtype=torch.float64, requires_grad=True)
    features = elu_plus_one(x)
    expected = [2.718281828459045**-50, 1 / 2.718281828459045, 1, 3, 1001]
    assert features.tolist() == pytest.approx(expected, rel=1e-13)
    features.sum().backward()
    assert x.grad.tolist() == pytest.approx([*expected[:3], 1, 1], rel=1e-13)


def test_second_order_features_give_the_series_of_the_exponential():
    query, key = torch.tensor([0.3, -0.5]), torch.tensor([0.7, 0.2])
    score = float(query @ key)
    assert float(second_order(query) @ second_order(key)) == pytest.approx(
        1 + score + score**2 / 2, rel=1e-6
    )
    assert float(squares(query) @ squares(key)) == pytest.approx(score**2, rel=1e-6)


def test_radial_zero_sum_rows_sum_to_zero_or_to_the_zero_order():
    full = draw(mixers.ZeroSumAttention)
    radial = replace(full, query=None, key=None)
    torch.testing.assert_close(map_of(radial).sum(dim=-1), full.zero_order, **EXACT)
    bare = map_of(replace(radial, zero_order=None))
    assert bare.sum(dim=-1).abs().max() < 1e-14
    assert bare[..., 0, :].abs().max() < 1e-15


def test_equal_orders_of_zero_sum_attention_are_softmax():
    """With all orders at one the expansion is put together again."""
    full = draw(mixers.ZeroSumAttention)
    one = torch.ones_like(full.logit)
    whole = replace(full, query=None, key=None, first_order=one, higher_order=one, zero_order=one)
    shifted = full.logit[:, None, :].expand(-1, STEPS, -1)
    hidden = torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1)
    softmax = shifted.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(map_of(whole), softmax, **EXACT)


@pytest.mark.parametrize("shift", [-600.0, 900.0, 2.0**40])
def test_zero_sum_weights_ignore_a_common_shift_of_the_logits(shift):
    """Far beyond the range of the exponential. Logits in 64ths are shifted without rounding."""
    full = draw(mixers.ZeroSumAttention)
    coarse = replace(full, logit=(64 * full.logit).round() / 64)
    moved = replace(coarse, logit=coarse.logit + shift)
    torch.testing.assert_close(map_of(moved), map_of(coarse), **EXACT)


def test_zero_sum_attention_wants_both_directions_or_none():
    with pytest.raises(ValueError, match="'query' and 'key'"):
        replace(draw(mixers.ZeroSumAttention), key=None)


def test_rwkv4_rows_sum_to_one_at_any_size_of_the_keys():
    """Weights around e^900 and e^-900 in one sequence."""
    mixer = draw(mixers.RWKV4)
    weights = map_of(replace(mixer, key=300 * mixer.key))
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]), **EXACT)


def test_mlstm_ignores_its_stabiliser_while_the_recall_is_large():
    """Where the recall decides the normaliser, all input gates may be shifted together."""
    mixer = replace(draw(mixers.MLSTM), epsilon=0.0)
    mixer = replace(
        mixer, query=mixer.query.abs(), key=mixer.key.abs() + 1, input_gate=3 + 0 * mixer.input_gate
    )
    louder = replace(mixer, input_gate=mixer.input_gate + 500)
    torch.testing.assert_close(map_of(louder), map_of(mixer), **EXACT)


@pytest.mark.parametrize("fields", [{}, {"query": None, "key": None}, {"zero_order": None}])
def test_zero_sum_attention_over_the_whole_sequence_is_its_definition(fields):
    mixer = replace(draw(mixers.ZeroSumAttention, steps=9), causal=False, **fields)
    expected = reference(mixer)
    for method in (None, dsf.evaluate.recurrent, dsf.evaluate.scan, dsf.evaluate.chunkwise):
        response = dsf.respond(mixer.system(), mixer.signal(), method=method)
        torch.testing.assert_close(response.squeeze(-2), expected, **EXACT)
    if mixer.query is None:
        torch.testing.assert_close(map_of(mixer).sum(dim=-1), mixer.zero_order, **EXACT)
