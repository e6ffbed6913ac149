"""The states of every system: a loop over tokens written out, and what the evaluators read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dsf
from dsf.evaluate import final_state
from dsf.runtime.shapes import ShapeError
from dsf.systems.coefficient import dense_of
from dsf.systems.system import System


def literal(system, signal):
    """h_t = A_t h_{t-1} + B_t u_t with dense matrices; from the end for one that runs backward."""
    A, B = system.A.dense(), dense_of(system.B)
    shape = (*system.batch, system.state_size, signal.shape[-1])
    dtype = torch.promote_types(A.dtype, signal.dtype)
    state = torch.zeros(shape, dtype=dtype) if system.initial is None else system.initial
    order = range(system.steps)[:: -1 if system.runs_backward else 1]
    found = {}
    for t in order:
        state = A[..., t, :, :].to(dtype) @ state.to(dtype)
        state = state + B[..., t, :, :].to(dtype) @ signal[..., t, :, :].to(dtype)
        found[t] = state
    return torch.stack([found[t] for t in range(system.steps)], dim=-3)


def test_states_are_those_of_the_recurrence(mixer):
    system, signal = mixer.system(), mixer.signal()
    if not isinstance(system, System):
        assert not hasattr(system, "states")
        return
    rng = torch.Generator().manual_seed(1)
    shape = (*system.batch, system.state_size, signal.shape[-1])
    initial = torch.randn(shape, generator=rng, dtype=torch.float64)
    for each in (system, replace(system, initial=initial.to(system.dtype))):
        expected = literal(each, signal)
        torch.testing.assert_close(each.states(signal), expected)
        torch.testing.assert_close(each.states(signal, at=[5, -9]), expected[..., [5, 0], :, :])


def test_the_last_state_is_where_the_next_part_starts(mixer):
    system, signal = mixer.system(), mixer.signal()
    if not isinstance(system, System) or system.runs_backward:
        return
    final = final_state(system, signal)
    torch.testing.assert_close(system.states(signal, at=-1).squeeze(-3), final)


@pytest.mark.parametrize("backward", [False, True])
def test_long_sequences_cross_the_borders_of_windows(backward):
    rng = torch.Generator().manual_seed(0)
    decay, write, read = torch.rand(3, 150, 2, generator=rng, dtype=torch.float64)
    A = dsf.systems.transition.Diagonal(decay)
    system = replace(System.from_write_and_read(A, write, read), runs_backward=backward)
    signal = torch.randn(150, 1, 3, generator=rng, dtype=torch.float64)
    states = system.states(signal, at=slice(60, 70))
    torch.testing.assert_close(states, literal(system, signal)[60:70])


def test_tokens_and_signals_that_do_not_fit_are_refused():
    one = torch.ones(5, 1)
    system = System.from_write_and_read(dsf.systems.transition.Diagonal(one / 2), one, one)
    with pytest.raises(IndexError, match="token 5"):
        system.states(torch.ones(5, 1, 1), at=[5])
    with pytest.raises(IndexError, match="'at'"):
        system.states(torch.ones(5, 1, 1), at=slice(3, 3))
    with pytest.raises(ShapeError, match=r"System\.states"):
        system.states(torch.ones(4, 1, 1))


@pytest.mark.usefixtures("our_own_errors")
def test_tokens_are_whole_numbers_of_any_library():
    one = torch.ones(3, 1)
    system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one / 2), one, one)
    signal = torch.ones(3, 1, 1)
    for at in (torch.tensor([0, -1]), np.array([0, 2]), (0, 2), range(0, 3, 2)):
        assert torch.equal(system.states(signal, at=at), system.states(signal, at=[0, 2]))
    assert torch.equal(system.states(signal, at=np.int64(1)), system.states(signal, at=1))
    for wrong in (1.5, "x", [0.0], True, [True, False, True], np.array([True, False, True])):
        with pytest.raises(TypeError, match="'at'"):
            system.states(signal, at=wrong)
