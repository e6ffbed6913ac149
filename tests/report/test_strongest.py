"""The list of largest weights does not depend on the blocks in which rows come."""

import numpy as np
import pytest

from dsf.report.views import KEPT, strongest


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
    found = []
    for start in range(0, 20, block):
        rows = np.arange(start, min(start + block, 20))
        found = strongest(found, weights[rows], rows, np.arange(15))
    assert [(each.written, each.read, each.weight) for each in found] == sorted_out(weights)
