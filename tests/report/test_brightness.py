"""From which weight on a colour is full: one key or the diagonal must not make all others pale."""

import numpy as np
import pytest
import torch

import dsf
from dsf.report.layer_content import _map
from dsf.report.selection import select
from dsf.report.views import views


def view_of(of, softmax, weights):
    """The view of softmax attention with these weights."""
    weights = torch.as_tensor(weights, dtype=torch.float64)
    layer = of([softmax(weights.log())])[0]
    return views(select(layer), side=len(weights))[0]


def sink(steps, share):
    """Every query gives ``share`` to the first key and the rest to all others alike."""
    weights = torch.tril(torch.full((steps, steps), 1.0))
    weights[:, 0] = 0
    weights *= (1 - share) / weights.sum(dim=1, keepdim=True).clamp(min=1)
    weights[:, 0] = share
    weights[0, 0] = 1
    return weights


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_first_key_that_takes_most_leaves_the_others_their_colours(of, softmax, share):
    weights = sink(64, share)
    view = view_of(of, softmax, weights)
    inner = np.array([weights[i, j] for i in range(64) for j in range(1, i)])
    usual, least = np.quantile(inner, 0.98), inner.max() / 16
    assert view.bright == pytest.approx(max(usual, least), rel=1e-6)
    assert view.bright < 0.2 * view.scale


def test_the_diagonal_does_not_count(of, softmax):
    weights = (
        torch.eye(50) * 0.9 + torch.tril(torch.full((50, 50), 0.1)) / torch.arange(1, 51)[:, None]
    )
    view = view_of(of, softmax, weights)
    assert view.scale == pytest.approx(1.0)
    assert view.bright < 0.05


def test_noise_stays_pale_beside_a_few_strong_weights(of, softmax):
    weights = torch.tril(torch.full((60, 60), 1e-6))
    weights[40, 7] = 1 - 1e-4
    assert view_of(of, softmax, weights / weights.sum(1, keepdim=True)).bright > 0.01


def test_the_largest_weight_is_the_end_where_nothing_else_is(of, softmax):
    view = view_of(of, softmax, torch.ones(1, 1))
    assert view.bright == view.scale == 1


@pytest.mark.parametrize(
    ("spread", "full"),
    [(0.0, 4.0), (0.25, 2.25), (0.5, 1.0), (0.75, 1.0)],
    ids=["uniform", "three quarters", "a half", "not uniform"],
)
def test_a_nearly_uniform_map_is_not_full_of_colour(of, softmax, spread, full):
    """Colours grow stronger with the distance of the least weights from the largest."""
    view = view_of(of, softmax, torch.tril(torch.full((40, 40), 1.0)))
    view.weights = np.tile(np.linspace(1, 1 - spread, 40), (40, 1)).T
    np.fill_diagonal(view.weights, 1e-9)
    inner = np.array([view.weights[i, j] for i in range(40) for j in range(1, i)])
    high = np.quantile(inner, 0.98)
    low = np.quantile(inner, 0.02)
    if low < high / 2:
        assert view.bright == pytest.approx(high)
    else:
        assert view.bright == pytest.approx(high * (2 * low / high) ** 2)
    assert view.bright / high == pytest.approx(full, rel=0.25)


def test_few_cells_are_not_called_uniform(of, softmax):
    view = view_of(of, softmax, torch.tril(torch.full((4, 4), 1.0)).clamp(min=1e-9))
    assert view.bright == pytest.approx(np.quantile([1 / 3, 1 / 4, 1 / 4], 0.98))


def test_what_is_not_finite_does_not_count(of, softmax):
    view = view_of(of, softmax, sink(8, 0.5))
    view.weights[5, 2] = np.nan
    view.weights[6, 2] = np.inf
    inner = [abs(view.weights[i, j]) for i in range(8) for j in range(1, i)]
    finite = [each for each in inner if np.isfinite(each)]
    assert view.bright == pytest.approx(np.quantile(finite, 0.98))


@pytest.mark.parametrize(("sign", "told"), [(1, False), (-1, True)])
def test_a_map_is_signed_if_one_weight_is_negative(of, sign, told):
    key = torch.ones(1, 40, 1)
    key[0, 3] = sign * 1e-9
    mixer = dsf.mixers.LinearAttention(
        query=torch.ones(1, 40, 1),
        key=key,
        value=torch.ones(1, 40, 1),
        feature_map=lambda features: features,
        normalised=False,
    )
    view = views(select(of([mixer])[0]), side=8)[0]
    assert view.signed is told
    assert _map(view, exact=True)["signed"] is told
