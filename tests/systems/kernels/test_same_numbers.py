"""Compiled loops against the plain path: the same numbers for every mixer, length and decay."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dsf
from dsf.evaluate import final_state
from dsf.evaluate.compiled import compiled
from dsf.systems import kernels as availability
from dsf.systems.coefficient import SampledWrite
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, SampledDiagonal, ScaledIdentity
from tests.drawn import Drawer
from tests.mixers.mixer_fields import draw, tensors

LENGTHS = (1, 2, 63, 64, 65, 257)
EXACT, SINGLE = 1e-12, 1e-6


@pytest.fixture(autouse=True)
def _all_work_is_worth_it(monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0)
    monkeypatch.setattr("dsf.evaluate.loops.FEW_COLUMNS", 1)
    monkeypatch.delenv("DSF_KERNELS", raising=False)


def error(ours, expected):
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    return float((ours - expected).norm() / expected.norm())


def single(mixer):
    return replace(
        mixer,
        **{
            name: part.to(torch.complex64 if part.is_complex() else torch.float32)
            for name, part in tensors(mixer).items()
            if part.is_floating_point() or part.is_complex()
        },
    )


@pytest.mark.sampled("mixer_class", count=2)
@pytest.mark.parametrize("steps", LENGTHS)
def test_every_mixer(mixer_class, steps, monkeypatch):
    mixer = draw(mixer_class, steps)
    for each, limit in ((mixer, EXACT), (single(mixer), SINGLE)):
        with monkeypatch.context() as off:
            off.setenv("DSF_KERNELS", "0")
            plain = dsf.respond(each.system(), each.signal())
        assert error(dsf.respond(each.system(), each.signal()), plain) <= limit


def without_kernels(monkeypatch, work):
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        return work()


STRUCTURES = (
    "scaled_identity",
    "diagonal",
    "delta",
    "scalar delta",
    "removal",
    "scalar removal",
    "selective",
)


def coefficients(structure, decay, drawer, *, steps, states):
    """A system of two heads, or of three channels, with the given decays.

    Delta rules erase where they write, removals in a direction of their own.
    """
    if structure == "selective":
        step = decay(3, steps)
        write = drawer.tensor(1, steps, states).expand(3, steps, states)
        read = drawer.tensor(1, steps, 1, states).expand(3, steps, 1, states)
        pole = -drawer.real(3, states, low=0.5, high=2.0)
        D = drawer.tensor(3, 1, 1, 1).expand(3, steps, 1, 1)
        return dsf.System(SampledDiagonal(step, pole), SampledWrite(step, write), read, D)
    write, read = drawer.tensor(2, steps, states), drawer.tensor(2, steps, states)
    feedthrough = drawer.tensor(2, steps)
    if structure == "scaled_identity":
        A = ScaledIdentity(decay(2, steps), states)
    elif structure == "diagonal":
        A = Diagonal(decay(2, steps, states))
    else:
        write = torch.nn.functional.normalize(write, dim=-1)
        scalar = structure.startswith("scalar")
        each = decay(2, steps, 1).expand(2, steps, states) if scalar else decay(2, steps, states)
        look, left = write, -write
        if structure.endswith("removal"):
            look = torch.nn.functional.normalize(drawer.tensor(2, steps, states), dim=-1)
            left = -0.7 * look
        A = DiagonalPlusLowRank(each, left.unsqueeze(-1), (each * look).unsqueeze(-1))
    return dsf.System.from_write_and_read(A, write, read, feedthrough)


DECAYS = {
    "ordinary": lambda decay, _: decay,
    "violent": lambda decay, chance: torch.where(chance < 0.05, np.exp(-50.0), decay),
    "slow": lambda decay, _: torch.full_like(decay, 1 - 1e-6),
    "resets": lambda decay, chance: torch.where(chance < 0.1, 0.0, decay),
}


def drawn(structure, regime, drawer, *, steps, states=5):
    """The same, its decays of one regime; a selective one takes the steps that give such decays."""

    def decay(*size):
        found = regime(torch.exp(-drawer.real(*size, low=0.0)), drawer.real(*size, low=0.0))
        if structure != "selective":
            return found
        return -found.double().clamp(min=1e-300).log().to(found.dtype)

    channel = 1 if structure == "selective" else 70
    system = coefficients(structure, decay, drawer, steps=steps, states=states)
    return system, drawer.tensor(*system.batch, steps, 1, channel)


structures = pytest.mark.parametrize("structure", STRUCTURES)


@structures
@pytest.mark.parametrize("regime", DECAYS.values(), ids=DECAYS)
def test_hard_decays_in_single_precision(structure, regime, monkeypatch):
    """Against the plain path in double precision over the same numbers."""
    system, signal = drawn(structure, regime, Drawer(3, dtype=torch.float32), steps=1024)
    exact = dsf.systems.algebra.converted(system, dtype=torch.float64)
    expected = without_kernels(monkeypatch, lambda: dsf.respond(exact, signal.double()))
    response, state = compiled(system, signal)
    assert error(response.double(), expected) < SINGLE
    left = without_kernels(monkeypatch, lambda: final_state(exact, signal.double()))
    assert error(state.double(), left) < SINGLE


@structures
def test_slow_sums_over_sixteen_thousand_tokens(structure):
    """A running sum in single precision would be off by 9e-5. Compiled in double precision."""
    drawer = Drawer(4, dtype=torch.float32)
    system, signal = drawn(structure, DECAYS["slow"], drawer, steps=16384)
    system, signal = replace(system, D=None), signal.abs()
    if structure == "selective":  # of one sign, so that sums grow
        B = system.B
        write = B.write[:1].abs().expand_as(B.write)
        system = replace(system, B=replace(B, write=write))
    exact, _ = compiled(dsf.systems.algebra.converted(system, dtype=torch.float64), signal.double())
    assert error(compiled(system, signal)[0].double(), exact) < SINGLE


@structures
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_carried_states_and_directions(structure, backward, before, monkeypatch):
    drawer = Drawer(5)
    system, signal = drawn(structure, DECAYS["resets"], drawer, steps=101)
    initial = drawer.tensor(*system.batch, system.state_size, signal.shape[-1])
    system = replace(system, initial=initial, runs_backward=backward, reads_before_update=before)
    assert (compiled(system, signal) is None) == (structure == "selective" and before)
    plain = without_kernels(monkeypatch, lambda: dsf.respond(system, signal))
    assert error(dsf.respond(system, signal), plain) < EXACT
    left = without_kernels(monkeypatch, lambda: final_state(system, signal))
    assert error(final_state(system, signal), left) < EXACT


@structures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_reset_leaves_nothing_of_the_past(structure, dtype):
    """What was before a decay of exactly zero does not reach over it, however large it was."""
    drawer = Drawer(6, dtype=dtype)
    system, signal = drawn(structure, lambda decay, _: decay, drawer, steps=90)
    part = "step" if structure == "selective" else "decay"
    decay = getattr(system.A, part).clone()
    time = -1 if decay.ndim == 2 else -2
    decay.narrow(time, 40, 1).fill_(1e4 if structure == "selective" else 0)
    A = replace(system.A, **{part: decay})
    if hasattr(A, "right"):
        right = A.right.clone()
        right[:, 40] = 0
        A = replace(A, right=right)
    B = replace(system.B, step=decay) if structure == "selective" else system.B
    system = replace(system, A=A, B=B)
    louder = signal.clone()
    louder[..., :40, :, :] *= 1e6
    after = [compiled(system, each)[0][..., 40:, :, :] for each in (signal, louder)]
    assert torch.equal(*after)


@structures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_nan(structure, dtype):
    """From the token on at which it enters a decay, and not before."""
    drawer = Drawer(7, dtype=dtype)
    system, signal = drawn(structure, lambda decay, _: decay, drawer, steps=70)
    part = "step" if structure == "selective" else "decay"
    decay = getattr(system.A, part).clone()
    decay.narrow(-1 if decay.ndim == 2 else -2, 33, 1).fill_(torch.nan)
    B = replace(system.B, step=decay) if structure == "selective" else system.B
    system = replace(system, A=replace(system.A, **{part: decay}), B=B)
    response, _ = compiled(system, signal)
    assert response[..., :32, :, :].isfinite().all()
    assert response[..., 33:, :, :].isnan().all()


def test_growth_is_growth():
    """Poles above zero: the same numbers, and infinite where the numbers end."""
    drawer = Drawer(8, dtype=torch.float32)
    system, signal = drawn("selective", lambda decay, _: decay, drawer, steps=40)
    system = replace(system, A=replace(system.A, pole=-system.A.pole))
    response, _ = compiled(system, signal)
    exact = dsf.evaluate.chunkwise(
        dsf.systems.algebra.converted(system, dtype=torch.float64), signal.double()
    )
    assert error(response.double(), exact) < 2 * SINGLE  # growth multiplies what rounding did
    system = replace(system, A=replace(system.A, pole=1e3 * system.A.pole))
    response, _ = compiled(system, signal)
    assert not response[..., -1, :, :].isfinite().any()


@pytest.mark.parametrize("structure", ["selective", "scaled_identity", "diagonal"])
def test_threads_change_nothing(structure):
    drawer, before = Drawer(9, dtype=torch.float32), torch.get_num_threads()
    system, signal = drawn(structure, lambda decay, _: decay, drawer, steps=90)
    answers = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers.append(compiled(system, signal)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*answers)
