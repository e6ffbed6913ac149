"""Maps worked out by hand, and rows at the edge."""

import math

import pytest
import torch

from dsf import measures

MAP = torch.tensor([[1.0, 0, 0], [1, 3, 0], [2, -1, 1]], dtype=torch.float64)
EMPTY = torch.tensor([[0.0, 0], [0.5, 0.5]], dtype=torch.float64)


def test_by_hand():
    assert measures.row_sums(MAP).tolist() == [1, 4, 2]
    assert measures.row_sum_spread(MAP) == 3
    assert measures.column_sums(MAP).tolist() == [4, 2, 1]
    assert measures.negative_mass(MAP) == 1
    assert measures.negative_share(MAP) == 1 / 9
    assert measures.negative_entries(MAP) == 1 / 6
    assert measures.smallest_entry(MAP) == -1
    assert measures.window_mass(MAP, width=1).tolist() == [1, 0.75, 0.25]
    assert measures.window_mass(MAP, width=2).tolist() == [1, 1, 0.5]
    assert measures.mean_distance(MAP).tolist() == [0, 0.25, 1.25]
    assert measures.absolute_gain(MAP) == 4
    assert measures.sink_mass(MAP) == 3 / 8
    assert measures.sink_mass(MAP, token=1) == 1 / 4
    assert measures.largest_ahead(MAP) == 0


def test_convexity_defect_is_the_distance_to_the_simplex():
    """Against a search over a fine grid of probability vectors."""
    row = torch.tensor([[0.9, -0.3, 0.2]], dtype=torch.float64)
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    first, second = torch.meshgrid(grid, grid, indexing="ij")
    third = 1 - first - second
    inside = third >= 0
    simplex = torch.stack([first[inside], second[inside], third[inside]], dim=-1)
    nearest = (simplex - row).abs().sum(dim=-1).min()
    square = torch.cat([row, torch.eye(3, dtype=torch.float64)[1:]])
    assert measures.convexity_defect(square)[0] == pytest.approx(nearest.item(), abs=1e-12)


def test_uniform_rows_have_no_gap_and_all_their_energy():
    uniform = torch.ones(4, 4, dtype=torch.float64).tril()
    uniform = uniform / uniform.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(measures.uniformity_gap(uniform), torch.zeros(4).double())
    torch.testing.assert_close(measures.uniform_share(uniform), torch.ones(4).double())
    expected = torch.tensor([math.log(n) for n in (1, 2, 3, 4)], dtype=torch.float64)
    torch.testing.assert_close(measures.row_entropy(uniform), expected)


def test_empty_rows_have_no_share_to_give():
    assert measures.row_sums(EMPTY).tolist() == [0, 1]
    assert measures.window_mass(EMPTY, width=1)[0].isnan()
    assert measures.row_entropy(EMPTY)[0].isnan()
    assert measures.mean_distance(EMPTY)[0].isnan()
    assert measures.convexity_defect(EMPTY).tolist() == [1, 0]
    zero = torch.zeros(3, 3, dtype=torch.float64)
    assert measures.negative_share(zero).isnan()
    assert measures.half_life(zero) == -1


def test_nan_stays_visible():
    broken = MAP.clone()
    broken[1, 0] = torch.nan
    assert measures.row_sums(broken)[1].isnan()
    assert not measures.row_sums(broken)[[0, 2]].isnan().any()
    assert measures.absolute_gain(broken).isnan()
    assert measures.negative_mass(broken).isnan()


def test_neighbourhoods_on_a_grid():
    uniform = torch.full((9, 9), 1 / 9, dtype=torch.float64)
    mass = measures.neighbourhood_mass(uniform, grid=(3, 3))
    torch.testing.assert_close(mass * 9, torch.tensor([4.0, 6, 4, 6, 9, 6, 4, 6, 4]).double())
    assert measures.uniform_neighbourhood(grid=(3, 3)) == pytest.approx(49 / 81)
    plain = measures.uniform_neighbourhood(grid=(14, 14), edge_aware=False, extra_tokens=1)
    assert plain == 9 / 197
    aware = measures.uniform_neighbourhood(grid=(14, 14), extra_tokens=1)
    assert aware == pytest.approx(0.0414, abs=5e-5)
    with pytest.raises(ValueError, match="12 positions"):
        measures.neighbourhood_mass(uniform, grid=(3, 4))


def test_sink_rate_counts_maps():
    sink = torch.zeros(4, 4).double()
    sink[:, 0] = 1
    local = torch.eye(4).double()
    assert measures.sink_rate(torch.stack([sink, local, local, sink])) == 0.5


def test_distances():
    assert measures.map_distance(MAP, MAP) == 0
    assert measures.largest_difference(MAP, MAP.tril(-1)) == 3
    with pytest.raises(ValueError, match="'rows'"):
        measures.map_distance(MAP, torch.eye(2).double())


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="'width'"):
        measures.window_mass(MAP, width=0)
    with pytest.raises(ValueError, match="real map"):
        measures.negative_mass(MAP.to(torch.complex128))
    with pytest.raises(ValueError, match="between 0 and 1"):
        measures.sink_rate(MAP, threshold=1.5)
