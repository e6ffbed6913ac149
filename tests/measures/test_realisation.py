"""Maps become systems of the least order, and systems shrink within their bound."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dsf
from dsf import measures
from dsf.systems.transition import Dense


def random_system(seed, *, steps, states, radius):
    rng = torch.Generator().manual_seed(seed)
    A = radius * torch.randn(steps, states, states, generator=rng, dtype=torch.float64)
    B = torch.randn(steps, states, 1, generator=rng, dtype=torch.float64)
    C = torch.randn(steps, 1, states, generator=rng, dtype=torch.float64)
    D = torch.randn(steps, 1, 1, generator=rng, dtype=torch.float64)
    return dsf.System(Dense(A), B, C, D, reads_before_update=bool(seed % 2))


def test_a_realised_map_is_the_map_with_as_many_states_as_its_rank(one_port_system):
    map = dsf.attention_map(one_port_system)
    realised = dsf.evaluate.realise(map)
    scale = map.abs().max().item()
    torch.testing.assert_close(dsf.attention_map(realised), map, rtol=0, atol=1e-12 * scale)
    ranks = measures.hankel_ranks(map, tolerance=1e-11)
    assert realised.state_size == max(1, int(ranks.max()))


def test_states_of_softmax_and_linear_attention():
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(17, 3, generator=rng, dtype=torch.float64) for _ in range(3))
    softmax = dsf.mixers.SoftmaxAttention(query=3 * query, key=key, value=value).system()
    assert dsf.evaluate.realise(dsf.attention_map(softmax)).state_size == 17 // 2
    unit = key / key.norm(dim=-1, keepdim=True)
    for rate, states in ((0.7, 3), (1.0, 2)):  # a rate of one erases a direction before it writes
        delta = dsf.mixers.DeltaNet(
            query=query, key=unit, value=value, rate=torch.full((17,), rate).double()
        )
        assert dsf.evaluate.realise(dsf.attention_map(delta.system())).state_size == states


@given(seed=st.integers(0, 10_000), order=st.integers(1, 4), steps=st.integers(2, 14))
def test_reductions_stay_within_their_bound(seed, order, steps):
    system = random_system(seed, steps=steps, states=5, radius=0.4)
    reduction = dsf.evaluate.reduce(system, order=order)
    assert reduction.order <= order
    assert reduction.error <= reduction.bound
    values = measures.hankel_singular_values(system)[:, order:]
    a_priori = values.square().sum().sqrt()
    assert reduction.bound <= a_priori + 1e-9 * reduction.size


def test_bound_and_error_meet():
    """Drops at different tokens are orthogonal, so the bound is attained."""
    reduction = dsf.evaluate.reduce(random_system(4, steps=30, states=6, radius=0.4), order=2)
    torch.testing.assert_close(reduction.error, reduction.bound, rtol=1e-6, atol=0)
    torch.testing.assert_close(reduction.dropped, reduction.error, rtol=1e-9, atol=0)
    assert reduction.error > 1e-3 * reduction.size


def test_a_tolerance_keeps_what_matters():
    system = random_system(5, steps=30, states=6, radius=0.4)
    exact = dsf.evaluate.reduce(system, tolerance=0.0)
    assert exact.error <= 1e-12 * exact.size
    rough = dsf.evaluate.reduce(system, tolerance=0.3)
    assert rough.order < exact.order


def test_states_needed_keeps_its_promise(one_port_system):
    map = dsf.attention_map(one_port_system)
    order = int(measures.states_needed(map, error=0.1).max())
    reduction = dsf.evaluate.reduce(map, order=max(order, 1))
    assert (reduction.error <= 0.1 * reduction.size * (1 + 1e-9)).all()


def test_states_needed_refuses_a_map_with_nan():
    map = torch.eye(4).double()
    map[2, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        measures.states_needed(map, error=0.1)


def test_what_cannot_be_realised_is_refused():
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        dsf.evaluate.realise(torch.ones(2, 2).double())
    with pytest.raises(ValueError, match="NaN"):
        dsf.evaluate.realise(torch.full((2, 2), torch.nan).double())
    with pytest.raises(ValueError, match="only one"):
        dsf.evaluate.reduce(torch.eye(3).double())
    with pytest.raises(ValueError, match="at least 1"):
        dsf.evaluate.reduce(torch.eye(3).double(), order=0)


def test_every_mixer_that_runs_forward_can_be_reduced(mixer):
    """Rows without an enclosure are reduced as they were computed."""
    system = mixer.system()
    if getattr(system, "runs_backward", False) or not hasattr(system, "steps"):
        pytest.skip("it runs backward")
    map = dsf.attention_map(system)
    if map.shape[-1] != map.shape[-2]:
        pytest.skip("it reads another sequence")
    reduction = dsf.evaluate.reduce(system, order=2)
    apart = torch.linalg.matrix_norm(dsf.attention_map(reduction.system) - map)
    assert bool((apart <= reduction.bound * (1 + 1e-9) + 1e-12).all())
