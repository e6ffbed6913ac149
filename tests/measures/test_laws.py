"""What must hold for any map at all."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from dsf import measures

EPS = 1e-9


@st.composite
def maps(draw, *, causal=True):
    """Signed maps of 1 to 7 tokens, some entries exactly zero."""
    steps = draw(st.integers(1, 7))
    seed = draw(st.integers(0, 10_000))
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(steps, steps, generator=rng, dtype=torch.float64)
    weights = weights * (torch.rand(steps, steps, generator=rng) > 0.2)
    weights = weights + torch.eye(steps).double()  # no row is empty
    return weights.tril() if causal else weights


@given(maps(), st.floats(0.1, 10))
def test_shares_do_not_depend_on_the_scale(map, scale):
    for measure in (
        measures.negative_share,
        measures.negative_entries,
        measures.row_entropy,
        measures.uniform_share,
        measures.mean_distance,
        measures.sink_mass,
        measures.half_life,
        measures.effective_rank,
    ):
        torch.testing.assert_close(
            measure(scale * map), measure(map), rtol=1e-9, atol=1e-9, equal_nan=True
        )


@given(maps(), st.floats(0.1, 10))
def test_sizes_grow_with_the_scale(map, scale):
    for measure in (
        measures.row_sums,
        measures.negative_mass,
        measures.absolute_gain,
        measures.energy_gain,
        measures.row_norms,
        measures.smallest_entry,
        measures.row_sum_spread,
    ):
        torch.testing.assert_close(
            measure(scale * map), scale * measure(map), rtol=1e-9, atol=1e-12
        )


@given(maps())
def test_a_flipped_sign_exchanges_positive_and_negative(map):
    negative, positive = measures.negative_mass(map), measures.negative_mass(-map)
    torch.testing.assert_close(negative + positive, map.abs().sum())
    torch.testing.assert_close(positive - negative, map.sum(), rtol=1e-9, atol=1e-12)


@given(maps(), st.integers(1, 8))
def test_wider_windows_hold_more_and_the_widest_all(map, width):
    near = measures.window_mass(map, width=width)
    assert (near <= measures.window_mass(map, width=width + 1) + EPS).all()
    assert (near >= 0).all()
    assert (near <= 1 + EPS).all()
    torch.testing.assert_close(
        measures.window_mass(map, width=len(map)), torch.ones(len(map)).double()
    )


@given(maps())
def test_ranges(map):
    steps = len(map)
    reach = torch.arange(1, steps + 1).double()
    assert (measures.row_entropy(map) <= reach.log() + EPS).all()
    assert (measures.effective_tokens(map) >= 1 - EPS).all()
    assert (measures.mean_distance(map) <= reach - 1 + EPS).all()
    assert (measures.uniform_share(map) <= 1 + EPS).all()
    assert (measures.convexity_defect(map) >= 0).all()
    assert 1 - EPS <= measures.effective_rank(map) <= steps + EPS
    assert measures.largest_ahead(map) == 0


@given(maps(causal=False))
def test_norms_bound_each_other(map):
    energy = measures.energy_gain(map)
    columns = measures.absolute_gain(map.mT)
    assert energy <= (measures.absolute_gain(map) * columns).sqrt() + EPS
    assert energy >= measures.row_norms(map).max() - EPS
    assert energy >= measures.column_norms(map).max() - EPS


@given(maps(causal=False), maps(causal=False))
def test_distance_is_zero_to_itself_only(first, second):
    assert measures.map_distance(first, first) == 0
    if first.shape == second.shape and not torch.equal(first, second):
        assert measures.map_distance(first, second) > 0
        assert measures.largest_difference(first, second) > 0


@given(st.integers(1, 40))
def test_a_probability_row_has_no_defect(steps):
    uniform = torch.ones(steps, steps).double().tril()
    uniform = uniform / uniform.sum(dim=-1, keepdim=True)
    assert measures.convexity_defect(uniform).max() < 1e-12
    assert math.isclose(measures.row_entropy(uniform)[-1].item(), math.log(steps), abs_tol=1e-12)
