"""Softmax attention with a finite state: the exponential series cut off, and random directions."""

import math
from dataclasses import replace

import pytest
import torch

import dsf
from dsf.mixers.ingredients import monomials, random_features, series_error


def drawn(steps=7, key=3, **options):
    rng = torch.Generator().manual_seed(4)
    query, keys, value = (torch.randn(2, steps, key, generator=rng).double() for _ in range(3))
    return dsf.mixers.SoftmaxAttention(query=query, key=keys, value=value, **options)


def series(x, order):
    return sum(x**p / math.factorial(p) for p in range(order + 1))


def test_two_numbers_to_second_order_by_hand():
    features = monomials(2)(torch.tensor([3.0, -2.0], dtype=torch.float64))
    root = 2**0.5
    expected = torch.tensor([1.0, 3.0, -2.0, 9 / root, -6.0, 4 / root], dtype=torch.float64)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("key", [1, 2, 4])
@pytest.mark.parametrize("order", range(7))
def test_products_of_features_are_the_series(order, key):
    q, k = torch.randn(2, 50, key, generator=torch.Generator().manual_seed(0)).double()
    features = monomials(order)
    ours = (features(q) * features(k)).sum(dim=-1)
    torch.testing.assert_close(ours, series((q * k).sum(dim=-1), order), rtol=1e-12, atol=1e-12)
    assert features(q).shape[-1] == features.width(key) == math.comb(key + order, order)


def test_features_have_gradients_at_zero():
    x = torch.tensor([0.0, 1.5, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(monomials(4), (x,))


@pytest.mark.parametrize("order", [0, 1, 4, 9])
def test_the_series_stays_within_its_error_and_comes_near_it(order):
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    error, bound = (x.exp() - series(x, order)).abs(), series_error(x, order)
    assert (error <= bound + 1e-13).all()
    small = torch.tensor(0.1, dtype=torch.float64)
    assert series_error(small, 2) < 1.2 * (small.exp() - series(small, 2))
    assert series_error(0 * small, order) == 0


@pytest.mark.parametrize("scale", [None, 0.7, -0.7])
@pytest.mark.parametrize("causal", [True, False])
def test_the_expansion_becomes_softmax(scale, causal):
    exact = drawn(steps=5, key=2, scale=scale, causal=causal)
    target = dsf.attention_map(exact.system())
    errors = [
        (dsf.attention_map(exact.expansion(order).system()) - target).abs().max().item()
        for order in (2, 8, 30)
    ]
    assert errors[0] > 1e-3
    assert errors[0] > 10 * errors[1]
    assert errors[2] < 1e-12


def test_the_expansion_is_the_row_of_the_series():
    exact = drawn(scale=0.3)
    scores = 0.3 * exact.query @ exact.key.mT
    weights = series(scores, 3).tril()
    expected = weights / weights.sum(dim=-1, keepdim=True) @ exact.value
    near = exact.expansion(3)
    ours = dsf.respond(near.system(), near.signal()).squeeze(-2)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert near.system().state_size == 20


@pytest.mark.parametrize("extra", ["bias", "softcap", "sink"])
def test_what_the_series_does_not_hold_is_refused(extra):
    drawn_with = {"bias": torch.zeros(2, 7, 7).double(), "softcap": 5.0, "sink": torch.zeros(2)}
    with pytest.raises(ValueError, match=extra):
        drawn(**{extra: drawn_with[extra]}).expansion(2)


def test_another_sequence_and_a_negative_order_are_refused():
    mixer = drawn(causal=False)
    across = replace(mixer, query=mixer.query[:, :3])
    with pytest.raises(ValueError, match="one sequence"):
        across.expansion(2)
    with pytest.raises(ValueError, match="order"):
        mixer.expansion(-1)


def test_random_features_are_exponentials_on_average():
    q = torch.tensor([0.6, -0.3], dtype=torch.float64)
    k = torch.tensor([0.2, 0.9], dtype=torch.float64)
    features = random_features(torch.Generator().manual_seed(0), key_size=2, width=400_000)
    terms = features(q) * features(k) * 400_000
    exact = (q @ k).exp()
    variance = exact**2 * ((q + k).square().sum().exp() - 1)
    assert (terms.mean() - exact).abs() < 4 * (variance / 400_000) ** 0.5
    assert (terms.var() / variance - 1).abs() < 0.05
    assert (features(q) > 0).all()


def test_random_features_follow_their_generator_and_their_input():
    first, again, other = (
        random_features(torch.Generator().manual_seed(seed), key_size=3, width=5)
        for seed in (1, 1, 2)
    )
    x = torch.ones(4, 3)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    assert first(x).dtype == torch.float32
    with pytest.raises(ValueError, match="at least 1"):
        random_features(torch.Generator(), key_size=3, width=0)
