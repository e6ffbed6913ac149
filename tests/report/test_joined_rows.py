"""Rows joined by compiled loops are those joined by plain loops, whatever is in them."""

import numpy as np
import pytest

from dsf.report.pooling import joined, joined_masks, plain
from dsf.systems.kernels import availability

ROWS, COLUMNS = 7, 23
FIRSTS, STARTS = np.array([0, 1, 4]), np.array([0, 2, 3, 11, 22])


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0)


def maps(kind):
    """Weights of three maps: signed, positive, or zero behind the diagonal; some others zero."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, ROWS, COLUMNS))
    weights[:, 2] = 0
    weights[1, :, 4:9] = 0
    if kind == "positive":
        weights = abs(weights)
    reach = np.full(ROWS, COLUMNS)
    if kind == "causal":
        reach = np.arange(ROWS) + 3
        weights[:, np.arange(COLUMNS) >= reach[:, None]] = 0
    return weights, reach


def by_hand(weights, firsts, starts):
    """Of every cell the entry of largest magnitude."""
    found = np.zeros((len(weights), len(firsts), len(starts)))
    for m, map in enumerate(weights):
        for r, rows in enumerate(np.split(map, firsts[1:])):
            for c, cell in enumerate(np.split(rows, starts[1:], axis=1)):
                found[m, r, c] = max(cell.ravel(), key=abs)
    return found


def check(found, weights):
    np.testing.assert_array_equal(found.strongest, by_hand(weights, FIRSTS, STARTS))
    np.testing.assert_allclose(found.row_sums, weights.sum(axis=2), atol=1e-14)
    np.testing.assert_allclose(found.column_sums, weights.sum(axis=1), atol=1e-14)
    np.testing.assert_array_equal(found.filled, (weights != 0).any(axis=2))
    np.testing.assert_array_equal(found.signed, (weights < 0).any(axis=(1, 2)))


@pytest.mark.parametrize("kind", ["signed", "positive", "causal"])
def test_both_ways_give_what_loops_over_cells_do(kind):
    weights, reach = maps(kind)
    check(joined(weights, reach, FIRSTS, STARTS, work=1), weights)
    check(plain(weights, FIRSTS, STARTS), weights)


def test_what_is_known_to_be_zero_is_not_read():
    """Else the test of causal rows would not tell whether compiled loops ran at all."""
    weights, reach = maps("causal")
    spoiled = weights.copy()
    spoiled[:, np.arange(COLUMNS) >= reach[:, None]] = 9
    check(joined(spoiled, reach, FIRSTS, STARTS, work=1), weights)


def test_of_every_other_row_and_of_single_precision_nothing_is_lost():
    weights, reach = maps("signed")
    apart = np.repeat(weights, 2, axis=1)[:, ::2]
    check(joined(apart, reach, FIRSTS, STARTS, work=1), weights)
    short = weights.astype(np.float32)
    found = joined(short, reach, FIRSTS, STARTS, work=1)
    np.testing.assert_allclose(found.row_sums, short.astype(float).sum(axis=2), atol=1e-14)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, 6, 22), (1, 3, 10)])
def test_what_is_not_finite_shows_in_its_cell(odd, place):
    weights, reach = maps("signed")
    weights[place] = odd
    found = joined(weights, reach, FIRSTS, STARTS, work=1)
    wanted = plain(weights, FIRSTS, STARTS)
    np.testing.assert_array_equal(found.strongest, wanted.strongest)
    np.testing.assert_array_equal(found.row_sums, wanted.row_sums)
    assert np.flatnonzero(~np.isfinite(found.strongest)).size == 1


@pytest.mark.parametrize("kind", ["causal", "ragged", "all", "none"])
def test_masks_of_cells_are_those_of_loops(kind):
    masked = np.random.default_rng(0).random((2, ROWS, COLUMNS)) < 0.8
    if kind == "causal":
        masked = ~np.tri(ROWS, COLUMNS, 5, dtype=bool)[None]
    if kind in ("all", "none"):
        masked[:] = kind == "all"
    hidden = [
        [
            [cell.all() for cell in np.split(rows, STARTS[1:], axis=1)]
            for rows in np.split(map, FIRSTS[1:])
        ]
        for map in masked
    ]
    reach = [max([j + 1 for j in range(COLUMNS) if not masked[:, i, j].all()], default=0)
             for i in range(ROWS)]  # fmt: skip
    for compiled in (True, False):
        found = joined_masks(masked, FIRSTS, STARTS, compiled=compiled)
        np.testing.assert_array_equal(found[0], hidden)
        np.testing.assert_array_equal(found[1], reach)
