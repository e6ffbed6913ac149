"""A pooled map shows the strongest link of every cell with its sign."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsf.report.views import View, edges, reduced_runs, stronger

small = arrays(np.float64, (2, 7, 11), elements=st.floats(-9, 9))


def by_hand(map, cells):
    """Loops over cells; ties in magnitude may have either sign."""
    rows, columns = map.shape
    out = np.zeros((min(cells, rows), min(cells, columns)))
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            top, bottom = r * rows // out.shape[0], (r + 1) * rows // out.shape[0]
            left, right = c * columns // out.shape[1], (c + 1) * columns // out.shape[1]
            block = map[top:bottom, left:right].ravel()
            out[r, c] = max(block, key=abs)
    return out


@given(maps=small, side=st.integers(1, 12), block=st.integers(1, 7))
def test_a_view_filled_block_by_block_is_the_whole_pooled(maps, side, block):
    view = View(2, 7, 11, side)
    free = np.zeros(maps.shape, dtype=bool)
    for start in range(0, 7, block):
        rows = slice(start, start + block)
        view.add(maps[:, rows], free[:, rows], np.arange(7)[rows], np.arange(11))
    expected = np.stack([by_hand(map, side) for map in maps])
    np.testing.assert_array_equal(np.abs(view.weights), np.abs(expected))
    assert not view.masked.any()


ODD = st.sampled_from([0.0, 1.0, -1.0, 2.0, 5.0, np.nan, np.inf])


@settings(max_examples=20)
@given(maps=arrays(np.float64, (2, 17, 11), elements=ODD), side=st.integers(1, 18))
@pytest.mark.parametrize("block", [1, 6, 17])
def test_a_view_keeps_the_largest_weights_of_all(maps, side, block):
    view = View(2, 17, 11, side)
    for start in range(0, 17, block):
        rows = np.arange(start, min(start + block, 17))
        view.add(maps[:, rows], np.zeros((1, len(rows), 11), dtype=bool), rows, np.arange(11))
    for found, map in zip(view.maps("ab", [0, 0]), maps, strict=True):
        places = [at for at in np.ndindex(map.shape) if np.isfinite(map[at]) and map[at]]
        places.sort(key=lambda at: (-abs(map[at]), *at))
        assert [(each.written, each.read) for each in found.strongest] == places[:12]
        assert found.empty_rows == [row for row in range(17) if not map[row].any()]
        assert (found.nans, found.infinities) == (np.isnan(map).sum(), np.isinf(map).sum())
        assert found.signed == (map < 0).any()
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(found.row_sums, map.sum(axis=1))
            np.testing.assert_allclose(found.column_sums, map.sum(axis=0))


@pytest.mark.parametrize("place", [(0, 0), (499, 499), (250, 3), (499, 0)])
def test_one_weight_among_a_quarter_million_stays_visible_with_its_sign(place):
    maps = np.zeros((1, 500, 500))
    maps[0][place] = -0.5
    view = View(1, 500, 500, 40)
    view.add(maps, np.zeros(maps.shape, dtype=bool), np.arange(500), np.arange(500))
    assert view.weights.min() == -0.5
    assert np.count_nonzero(view.weights) == 1


def test_several_ports_of_a_token_share_its_cell():
    ports = np.array([[[1.0, -4.0, 0.0, 0.0], [2.0, 0.0, 0.0, 5.0]]])
    view = View(1, 1, 2, 8)
    view.add(ports, np.zeros(ports.shape, dtype=bool), np.array([0, 0]), np.array([0, 0, 1, 1]))
    assert view.weights.tolist() == [[[-4.0, 5.0]]]


def test_a_cell_is_masked_only_where_all_of_it_is():
    ahead = np.triu(np.ones((1, 4, 4), dtype=bool), 1)
    view = View(1, 4, 4, 2)
    view.add(np.zeros((1, 4, 4)), ahead, np.arange(4), np.arange(4))
    assert view.masked[0].tolist() == [[False, True], [False, False]]


def test_what_is_not_a_number_wins():
    nan, inf = np.nan, np.inf
    won = stronger(np.array([nan, 1.0, -inf, 2.0]), np.array([9.0, nan, 3.0, -2.5]))
    np.testing.assert_array_equal(won, [nan, nan, -inf, -2.5])


@given(size=st.integers(1, 300), bins=st.integers(1, 300))
def test_edges_leave_no_run_empty(size, bins):
    starts = edges(size, min(size, bins))
    assert starts[0] == 0
    assert (np.diff([*starts, size]) > 0).all()


@pytest.mark.parametrize(("size", "bins"), [(12, 4), (13, 4), (12, 12), (64, 4), (7, 1)])
@pytest.mark.parametrize("axis", [1, 2])
def test_runs_are_joined_like_one_by_one(size, bins, axis):
    """Runs of one length and of two, short and long."""
    shape = (2, size, 3) if axis == 1 else (2, 3, size)
    numbers = np.random.default_rng(0).normal(size=shape)
    numbers.ravel()[5] = np.nan
    starts = edges(size, bins)
    parts = np.split(numbers, starts[1:], axis=axis)
    expected = np.stack([part.max(axis=axis) for part in parts], axis=axis)
    found = reduced_runs(np.maximum, numbers, starts, axis=axis)
    np.testing.assert_array_equal(found, expected)
