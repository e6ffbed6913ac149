"""Small pictures of maps: of every cell the strongest weight, and whether all of it is masked."""

import numpy as np
import pytest

from dsf.report.views import shrunk

SIDE = 48


@pytest.mark.parametrize("odd", [None, np.nan, -np.inf])
def test_a_cell_has_its_strongest_weight(odd):
    weights = np.random.default_rng(0).normal(size=(3, 250, 231))
    if odd is not None:
        weights[1, 7, 9] = odd
    masked = np.random.default_rng(1).random(weights.shape) < 0.97
    found, hidden = shrunk(weights, masked, SIDE)
    assert found.shape == hidden.shape == (3, SIDE, SIDE)
    for k in range(3):
        for row in range(SIDE):
            rows = slice(row * 250 // SIDE, (row + 1) * 250 // SIDE)
            for column in range(SIDE):
                columns = slice(column * 231 // SIDE, (column + 1) * 231 // SIDE)
                cell = weights[k, rows, columns].ravel()
                strongest = cell[np.abs(cell).argmax()]  # NaN is larger than any
                np.testing.assert_equal(found[k, row, column], strongest)
                assert hidden[k, row, column] == masked[k, rows, columns].all()


def test_no_more_cells_than_weights():
    weights = np.arange(12.0).reshape(1, 3, 4)
    masked = weights > 5
    found, hidden = shrunk(weights, masked, SIDE)
    np.testing.assert_array_equal(found, weights)
    np.testing.assert_array_equal(hidden, masked)
