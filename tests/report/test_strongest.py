"""The list of largest weights does not depend on the blocks in which rows come."""

import numpy as np
import pytest

from dsf.report.views import KEPT, Strongest, StrongestOfEach


def sorted_out(weights):
    """By sorting all of them: larger ones first, then earlier queries, then earlier keys."""
    places = [at for at in np.ndindex(weights.shape) if np.isfinite(weights[at]) and weights[at]]
    order = sorted(places, key=lambda at: (-abs(weights[at]), *at))
    return [(*at, weights[at]) for at in order[:KEPT]]


@pytest.mark.parametrize("block", [1, 3, 20])
@pytest.mark.parametrize("kind", ["ties", "few", "odd"])
def test_it_is_the_start_of_all_weights_sorted(kind, block):
    weights = np.random.default_rng(0).integers(-3, 4, size=(20, 15)).astype(float)
    if kind == "few":
        weights[3:] = weights[:, 3:] = 0
    if kind == "odd":
        weights[4, 2], weights[9, 9], weights[0, 0] = np.nan, np.inf, -np.inf
    found = Strongest()
    for start in range(0, 20, block):
        rows = np.arange(start, min(start + block, 20))
        found.add(weights[rows], rows, np.arange(15))
    assert [(each.written, each.read, each.weight) for each in found.links()] == sorted_out(weights)
    assert found.floor == (0 if kind == "few" else 3)


@pytest.mark.parametrize("block", [1, 3, 20])
@pytest.mark.parametrize("kind", ["ties", "few", "odd", "none", "apart"])
def test_compiled_loops_keep_those_of_every_map(kind, block):
    """Cells are pairs of rows; what is told of a cell bounds its weights."""
    rng = np.random.default_rng(1)
    weights = rng.integers(-3, 4, size=(2, 20, 15)).astype(float)
    if kind == "few":
        weights[:, 3:] = weights[:, :, 3:] = 0
    if kind == "odd":
        weights[0, 4, 2], weights[0, 9, 9], weights[1, 0, 0] = np.nan, np.inf, -np.inf
    if kind == "none":
        weights[1] = 0
    if kind == "apart":
        weights = rng.normal(size=(2, 20, 15))
    found = StrongestOfEach(2)
    for start in range(0, 20, block):
        rows = np.arange(start, min(start + block, 20))
        cells = (rows - start) // 2
        part = weights[:, rows]
        largest = [np.abs(part[:, cells == cell]).max(axis=1) for cell in range(cells[-1] + 1)]
        found.add(part, np.stack(largest, axis=1), cells, rows, np.arange(15))
    for k in range(2):
        links = [(each.written, each.read, each.weight) for each in found.links(k)]
        assert links == sorted_out(weights[k])


def test_a_cell_without_large_weights_is_not_read():
    found = StrongestOfEach(1)
    weights = np.full((1, 2, KEPT), 2.0)
    weights[0, 1] = 3
    bounds = np.array([[[2.0], [1.0]]])
    found.add(weights, bounds, np.array([0, 1]), np.arange(2), np.arange(KEPT))
    assert {each.weight for each in found.links(0)} == {2.0}
