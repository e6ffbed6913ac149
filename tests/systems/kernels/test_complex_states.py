"""The loop over complex states of time-invariant systems, against the recurrence token by token."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.evaluate import final_state, loops
from dsf.systems import kernels as availability
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank
from tests.drawn import Drawer

STEPS = 301


@pytest.fixture
def answers(monkeypatch):
    """What the loop answered, for any work and in blocks that end inside of the sequence."""
    found, run = [], loops.complex_response

    def noted(*arguments):
        found.append(run(*arguments))
        return found[-1]

    monkeypatch.setattr(availability, "WORTH", 0)
    monkeypatch.setattr(loops, "BLOCK", 2**13)
    monkeypatch.setattr("dsf.evaluate.loops.complex_response", noted)
    monkeypatch.delenv("DSF_KERNELS", raising=False)
    return found


def system_of(drawer, *, rank_one, states=37, inputs=3, outputs=2, steps=STEPS):
    """Two systems; one state barely decays, one forgets all, one turns."""

    def many(*size):
        part = torch.complex(drawer.tensor(*size), drawer.tensor(*size))
        return part[:, None].expand(size[0], steps, *size[1:])

    angle = drawer.real(2, states, low=-3.0, high=3.0)
    radius = drawer.real(2, states, low=0.2, high=1.0)
    radius[:, 0], radius[:, 1:2], angle[:, 0] = 1 - 1e-6, 0.0, 0.0
    decay = torch.polar(radius, angle)[:, None].expand(2, steps, states)
    A = Diagonal(decay)
    if rank_one:
        left, right = many(2, states, 1) / states, many(2, states, 1) / states
        A = DiagonalPlusLowRank(decay * 0.9, left, right)
    B, C, D = many(2, states, inputs), many(2, outputs, states), many(2, outputs, inputs)
    return dsf.System(A, B, C, D, takes_real_part=True)


def by_the_recurrence(system, signal):
    """Every token by the two equations of a system, in double precision: responses, last state."""
    A = system.A.window(0, 1).dense()[:, 0].to(torch.complex128)
    B, C, D = (part[:, 0].to(torch.complex128) for part in (system.B, system.C, system.D))
    u = signal.to(torch.complex128)
    state = torch.zeros(2, system.state_size, u.shape[-1], dtype=torch.complex128)
    if system.initial is not None:
        state = system.initial.to(torch.complex128)
    order = reversed(range(system.steps)) if system.runs_backward else range(system.steps)
    found = [None] * system.steps
    for t in order:
        after = A @ state + B @ u[:, t]
        found[t] = (C @ (state if system.reads_before_update else after) + D @ u[:, t]).real
        state = after
    return torch.stack(found, dim=1), state


def error(ours, expected):
    assert ours.shape == expected.shape
    return ((ours - expected).norm() / expected.norm()).item()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("rank_one", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 5e-7), (torch.float64, 1e-14)])
def test_the_loop_is_the_recurrence(answers, dtype, limit, rank_one):
    drawer = Drawer(3, dtype=dtype)
    for columns, inputs in ((1, 3), (4, 1)):
        system = system_of(drawer, rank_one=rank_one, inputs=inputs)
        signal = drawer.tensor(2, STEPS, inputs, columns)
        initial = torch.complex(*(drawer.tensor(2, 37, columns) for _ in range(2)))
        for changes in (
            {},
            {"initial": initial},
            {"initial": initial, "runs_backward": True},
            {"reads_before_update": True, "initial": initial},
        ):
            asked = replace(system, **changes)
            expected, left = by_the_recurrence(asked, signal)
            response = dsf.respond(asked, signal)
            assert answers[-1] is not None
            assert response.dtype == dtype
            assert error(response, expected) < limit
            assert error(final_state(asked, signal), left) < limit


@pytest.mark.parametrize("steps", [1, 2, 31, 64, 65])
@pytest.mark.parametrize("rank_one", [False, True])
def test_short_sequences_and_few_states(answers, steps, rank_one):
    drawer = Drawer(4, dtype=torch.float64)
    for states in (1, 8, 33):
        system = system_of(drawer, rank_one=rank_one, states=states, steps=steps)
        signal = drawer.tensor(2, steps, 3, 1)
        assert error(dsf.respond(system, signal), by_the_recurrence(system, signal)[0]) < 1e-13
        assert answers[-1] is not None


def test_where_it_does_not_apply(answers, monkeypatch):
    drawer = Drawer(5, dtype=torch.float64)
    system, signal = system_of(drawer, rank_one=False), drawer.tensor(2, STEPS, 3, 1)
    expected = dsf.respond(system, signal)
    changing = replace(system, B=system.B * torch.arange(1, STEPS + 1)[:, None, None])
    whole = replace(system, takes_real_part=False)
    two = DiagonalPlusLowRank(system.A.decay, *(system.B[..., :2] / 99 for _ in range(2)))
    for other in (changing, whole, replace(system, A=two)):
        dsf.respond(other, signal)
        assert answers.pop() is None
    wanted = signal.clone().requires_grad_()
    dsf.respond(system, wanted).sum().backward()
    assert answers.pop() is None
    assert wanted.grad.abs().max() > 0
    monkeypatch.setenv("DSF_KERNELS", "0")
    assert error(dsf.respond(system, signal), expected) < 1e-13
    assert answers.pop() is None
