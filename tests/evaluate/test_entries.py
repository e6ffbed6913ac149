"""Entries that decay on their own: the walk, its derivatives of every kind, pieces of a batch."""

import pytest
import torch

from dsf.systems import kernels as availability
from dsf.systems.transition import uncoupled_states


@pytest.fixture
def parts():
    rng = torch.Generator().manual_seed(0)
    decay = torch.randn(1, 4, 1, 1, dtype=torch.complex128, generator=rng)
    drive = torch.randn(1, 4, 1, 2, dtype=torch.complex128, generator=rng)
    entering = torch.randn(1, 1, 2, dtype=torch.complex128, generator=rng)
    decay[0, 2] = 0
    return decay.requires_grad_(True), drive.requires_grad_(True), entering.requires_grad_(True)


@pytest.fixture(params=["torch", "compiled"])
def route(request, monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0 if request.param == "compiled" else 2**40)


def by_hand(decay, drive, entering=0.0):
    states = [drive[..., 0, :, :] + decay[..., 0, :, :] * entering]
    for t in range(1, drive.shape[-3]):
        states.append(decay[..., t, :, :] * states[-1] + drive[..., t, :, :])
    return torch.stack(states, dim=-3)


def states_of(*parts):
    return uncoupled_states(*parts)[0]


@pytest.mark.usefixtures("route")
def test_the_walk_is_the_loop(parts):
    for given in (parts, parts[:2]):
        states, leaving = uncoupled_states(*given)
        torch.testing.assert_close(states, by_hand(*given), rtol=1e-14, atol=1e-14)
        assert torch.equal(leaving, states[..., -1, :, :])


@pytest.mark.usefixtures("route")
def test_a_slow_decay_keeps_its_digits_in_single_precision():
    decay, drive = torch.full((4096, 1, 1), 0.9999), torch.ones(4096, 1, 1)
    exact = by_hand(decay.double(), drive.double())
    assert ((states_of(decay, drive) - exact) / exact).abs().max() < 1e-7


@pytest.mark.usefixtures("route")
def test_decays_and_what_enters_may_be_more_precise_than_the_rest():
    """One step of 4,096 tokens or 64 of 64: the same digits, in states of single precision."""
    decay, drive = torch.full((64, 1, 1), 1 - 1e-9, dtype=torch.float64), torch.ones(64, 1, 1)
    state = None
    for _ in range(64):
        states, state = uncoupled_states(decay, drive, state)
    assert states.dtype == torch.float32
    assert state.dtype == torch.float64
    exact = by_hand(decay[:1].expand(4096, 1, 1), drive[:1].double().expand(4096, 1, 1))[-1]
    assert ((state - exact) / exact).abs() < 1e-12
    assert ((states[-1] - exact) / exact).abs() < 1e-7


# torch loads its own forward derivatives by a way it deprecates.
forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.mark.usefixtures("route")
@forward_mode
@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("number", ["real", "complex", "real decay"])
def test_first_and_second_derivatives(parts, number):
    decay, drive, entering = (part.detach() for part in parts)
    decay = decay if number == "complex" else decay.real
    drive, entering = (drive.real, entering.real) if number == "real" else (drive, entering)
    for given in ((decay, drive, entering), (decay, drive)):
        parts = tuple(part.clone().requires_grad_(True) for part in given)
        assert torch.autograd.gradcheck(
            uncoupled_states, parts, check_forward_ad=True, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(
            uncoupled_states, parts, check_fwd_over_rev=True, fast_mode=True
        )


@pytest.mark.usefixtures("route")
def test_the_walk_leaves_its_parts_alone():
    drive = torch.ones(3, 1, 1, dtype=torch.float64)
    entering = drive[0].clone()
    assert states_of(drive, drive, entering).flatten().tolist() == [2, 3, 4]
    assert torch.cat([drive.flatten(), entering.flatten()]).tolist() == [1, 1, 1, 1]


def test_one_part_alone_may_want_its_gradient(parts):
    for wanted in parts:
        some = (part if part is wanted else part.detach() for part in parts)
        (alone,) = torch.autograd.grad(states_of(*some).abs().sum(), wanted)
        (both,) = torch.autograd.grad(by_hand(*parts).abs().sum(), wanted)
        torch.testing.assert_close(alone, both)


@pytest.mark.usefixtures("route")
@forward_mode
def test_function_transforms(parts):
    decay, drive, entering = (part.detach().real for part in parts)
    many = torch.stack([decay, decay / 2, -decay])
    for axes, given in (((0, None), (many, drive)), ((None, 0), (decay, torch.stack([drive] * 3)))):
        ours = torch.func.vmap(states_of, axes)(*given)
        each = zip(*(part.expand(3, *part.shape[-4:]) for part in given), strict=True)
        torch.testing.assert_close(ours, torch.stack([by_hand(*pair) for pair in each]))
    for turn in range(3):
        forth, back = (
            way(states_of, argnums=turn)(decay, drive, entering)
            for way in (torch.func.jacfwd, torch.func.jacrev)
        )
        torch.testing.assert_close(forth, back)


@pytest.mark.usefixtures("route")
def test_the_first_decay_meets_nothing(parts):
    decay, drive, _ = (part.detach() for part in parts)
    wild = decay.clone()
    wild[:, 0] = float("inf")
    assert torch.equal(states_of(wild, drive), states_of(decay, drive))
    drive.requires_grad_(True)
    pulled = torch.autograd.grad(states_of(wild, drive).abs().sum(), drive)
    expected = torch.autograd.grad(states_of(decay, drive).abs().sum(), drive)
    assert torch.equal(*pulled, *expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_the_compiled_scan_by_threads(monkeypatch):
    """Entries in several pieces, the last one smaller, in single precision."""
    diagonal_scan = pytest.importorskip("dsf.systems.kernels.recurrences")
    monkeypatch.setattr(diagonal_scan, "FEWEST", 2)
    rng = torch.Generator().manual_seed(0)
    decay, drive, states = torch.randn(3, 6, 5, generator=rng)
    entering = torch.randn(5, dtype=torch.float64, generator=rng)
    running = entering.clone()
    diagonal_scan.scan_states(decay, drive, at_rest=False, into=(states, running))
    expected = by_hand(*(part[..., None].double() for part in (decay, drive, entering))).squeeze(-1)
    torch.testing.assert_close(running, expected[-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(states.double(), expected, rtol=1e-6, atol=1e-6)
