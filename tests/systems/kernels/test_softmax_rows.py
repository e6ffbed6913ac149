"""Softmax rows by compiled loops are those of the formula, and of torch operations."""

import math

import numpy as np
import pytest
import torch

from dsf.systems.kernels import availability
from dsf.systems.kernels.exponential_rows import soften_rows
from dsf.systems.softmax_rows import SoftmaxRows

INF, COLUMNS = math.inf, 7


def by_hand(scores, sink):
    """Exponentials over their sum, in Python's own numbers."""
    top = max(*scores, sink)
    if top == -INF:
        return [0.0] * COLUMNS
    sizes = [math.exp(each - top) for each in scores]
    total = math.fsum([*sizes, math.exp(sink - top)])
    return [size / total for size in sizes] + [0.0] * (COLUMNS - len(scores))


ROWS = [
    [0.0, 0.0, 0.0, 0.0],
    [1.5, -2.0, 700.0, 699.0],
    [-1e5, -1e5 + 1, -INF, -3e5],
    [-INF, -INF, -INF, -INF],
    [-INF, 1e308, -1e308, 3.0],
]


@pytest.mark.parametrize("sink", [-INF, 0.5, 699.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_rows_are_exponentials_over_their_sum(sink, dtype, tolerance):
    scores = np.array([ROWS, ROWS[::-1]]).clip(-1e30, 1e30)
    scores = np.where(np.array([ROWS, ROWS[::-1]]) == -INF, -INF, scores).astype(dtype)
    whole = np.full((2, len(ROWS), COLUMNS), np.nan, dtype=dtype)
    soften_rows(scores, np.array([sink, sink]), whole)
    for found, given in zip(whole.reshape(-1, COLUMNS), scores.reshape(-1, 4), strict=True):
        np.testing.assert_allclose(found, by_hand(given.tolist(), sink), rtol=tolerance, atol=1e-37)


@pytest.mark.parametrize("odd", [math.nan, INF])
def test_what_is_not_finite_spoils_its_row_alone(odd):
    scores = np.zeros((1, 3, 4))
    scores[0, 1, 2] = odd
    whole = np.empty((1, 3, COLUMNS))
    soften_rows(scores, np.array([-INF]), whole)
    assert np.isnan(whole[0, 1, :4]).any()
    np.testing.assert_array_equal(whole[0, [0, 2], :4], 0.25)


def drawn(rng, **more):
    query, key = (torch.randn(2, 3, 70, 4, generator=rng, dtype=torch.float64) for _ in "qk")
    return SoftmaxRows(query=query, key=key, scale=0.5, **more)


def hidden(rng):
    bias = torch.where(torch.rand(2, 3, 70, 70, generator=rng) < 0.3, -INF, 0.0).double()
    bias[0, 1, 5] = -INF
    return bias


KINDS = {
    "causal": lambda _: {"causal": True},
    "all keys": lambda _: {"causal": False},
    "sink": lambda rng: {"causal": True, "sink": torch.randn(2, 3, generator=rng).double()},
    "mask": lambda rng: {"causal": False, "bias": hidden(rng)},
    "causal mask": lambda rng: {"causal": True, "bias": hidden(rng), "softcap": 0.7},
    "decay": lambda rng: {
        "causal": True,
        "log_decay": -torch.rand(2, 3, 70, generator=rng).double(),
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_windows_are_those_of_torch(kind, dtype, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    rows = drawn(rng, **KINDS[kind](rng)).to(dtype=dtype)
    windows = []
    for worth in (0, 2**60):
        monkeypatch.setattr(availability, "WORTH", worth)
        windows.append([rows.window(*span) for span in ((0, 1), (1, 40), (40, 70))])
    rtol, atol = (1e-12, 1e-15) if dtype == torch.float64 else (1e-5, 1e-7)
    for compiled, plain in zip(*windows, strict=True):
        assert compiled.dtype == plain.dtype == dtype
        torch.testing.assert_close(compiled, plain, rtol=rtol, atol=atol)


def test_gradients_go_through_torch(monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0)
    rows = drawn(torch.Generator().manual_seed(0), causal=True)
    rows.query.requires_grad_()
    rows.window(0, 70).square().sum().backward()
    assert rows.query.grad.abs().max() > 0
