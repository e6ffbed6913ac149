"""Single precision against a loop in double precision, where decays are hard.

The decays are drawn in single precision and the loop takes those very numbers, so that the error
is that of the calculation alone. A relative error of 1e-6 is about ten roundings.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dsf
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, ScaledIdentity
from tests.drawn import STRUCTURES, Drawer

STATES, CHANNELS = 4, 9
LIMIT = 1e-6

REGIMES = {
    "ordinary": lambda decay, _: decay,
    "violent": lambda decay, chance: torch.where(chance < 0.05, np.exp(-50.0), decay),
    "slow": lambda decay, _: torch.full_like(decay, 1 - 1e-6),
    "exact zeros": lambda decay, chance: torch.where(chance < 0.01, 0.0, decay),
}
regimes = pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES)
structures = pytest.mark.parametrize("structure", ["scalar", "diagonal", "delta"])


def draw(structure, regime, steps):
    """A system in single precision, its signal, and one step of its state in double precision."""
    drawer = Drawer(12, dtype=torch.float32)
    width = (STATES,) if structure == "diagonal" else ()
    decay = regime(
        torch.exp(-drawer.real(steps, *width, low=0.0)), drawer.real(steps, *width, low=0.0)
    )
    exact = decay.double().numpy()
    write, read = drawer.tensor(steps, STATES), drawer.tensor(steps, STATES)
    left = right = np.zeros((steps, STATES))
    if structure == "scalar":
        A = ScaledIdentity(decay, STATES)
        exact = exact[:, None]
    elif structure == "diagonal":
        A = Diagonal(decay)
    else:
        exact = exact[:, None]
        key = torch.nn.functional.normalize(drawer.tensor(steps, STATES), dim=-1)
        erase = -(decay * drawer.real(steps, low=0.2, high=1.8)).unsqueeze(-1) * key
        spread = decay.unsqueeze(-1).expand(steps, STATES)
        A = DiagonalPlusLowRank(spread, erase.unsqueeze(-1), key.unsqueeze(-1))
        left, right = erase.double().numpy(), key.double().numpy()

    def moved(t, state):
        return exact[t][:, None] * state + left[t][:, None] * (right[t] @ state)

    system = dsf.System.from_write_and_read(A, write, read)
    return system, drawer.tensor(steps, 1, CHANNELS), moved


def loop(system, signal, moved):
    write, read = (part.double().squeeze().numpy() for part in (system.B, system.C))
    values = signal.double().squeeze(-2).numpy()
    state, out = np.zeros((STATES, CHANNELS)), []
    for t in range(len(values)):
        state = moved(t, state) + write[t][:, None] * values[t]
        out.append(read[t] @ state)
    return np.stack(out)


def error(response, expected):
    assert response.dtype == torch.float32
    difference = response.double().squeeze(-2).numpy() - expected
    return np.linalg.norm(difference) / np.linalg.norm(expected)


@structures
@regimes
def test_windows_and_steps_lose_no_digits(structure, regime):
    system, signal, moved = draw(structure, regime, 1024)
    expected = loop(system, signal, moved)
    assert error(dsf.evaluate.recurrent(system, signal), expected) < LIMIT
    assert error(dsf.evaluate.chunkwise(system, signal), expected) < LIMIT
    few = dsf.evaluate.chunkwise(system, signal[..., :1])
    assert error(few, expected[:, :1]) < LIMIT


@structures
@pytest.mark.parametrize("regime", ["slow", "exact zeros"])
def test_sixteen_thousand_tokens_lose_no_digits(structure, regime):
    """Errors add up where nothing is forgotten; a running sum in single precision has 9e-5 here."""
    system, signal, moved = draw(structure, REGIMES[regime], 16384)
    expected = loop(system, signal, moved)
    assert error(dsf.evaluate.chunkwise(system, signal), expected) < LIMIT
    few = dsf.evaluate.chunkwise(system, signal[..., :1])
    assert error(few, expected[:, :1]) < LIMIT


@structures
@regimes
def test_the_scan_loses_no_digits(structure, regime):
    system, signal, moved = draw(structure, regime, 2048)
    assert error(dsf.evaluate.scan(system, signal), loop(system, signal, moved)) < LIMIT


@structures
@regimes
def test_the_map_loses_no_digits(structure, regime):
    system, signal, moved = draw(structure, regime, 512)
    map = dsf.attention_map(system)
    assert error((map @ signal.squeeze(-2)).unsqueeze(-2), loop(system, signal, moved)) < LIMIT


def test_a_convolution_of_single_precision_is_calculated_in_double():
    drawer = Drawer(13, dtype=torch.float32)
    decay = torch.tensor([0.9, 0.99, 0.999, 1 - 1e-6])
    write, read, signal = (drawer.tensor(4096, size) for size in (STATES, STATES, CHANNELS))
    A = Diagonal(decay.expand(4096, STATES))
    system = dsf.System.from_write_and_read(A, write[:1].expand_as(write), read[:1].expand_as(read))
    exact = decay.double().numpy()[:, None]
    expected = loop(system, signal.unsqueeze(-2), lambda _, state: exact * state)
    assert error(dsf.evaluate.convolution(system, signal.unsqueeze(-2)), expected) < 1e-7


ZEROS = ("none", "one", "two", "all")


def decay_with_zeros(drawer, which, *size):
    decay = drawer.decay(*size).clone()
    if which == "all":
        return torch.zeros_like(decay)
    for place in {"none": (), "one": (3,), "two": (3, 4)}[which]:
        decay[place] = 0
    return decay


@pytest.mark.parametrize("which", ZEROS)
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("channels", [1, 6])
def test_gradients_of_zero_decays_are_exact(which, complex, channels):
    """A running product has a gradient where a factor is zero; dividing by it would give nan."""
    drawer = Drawer(14, complex=complex)
    write, read = drawer.tensor(7, 2), drawer.tensor(7, 2)
    signal = drawer.tensor(7, 1, channels)

    decay = decay_with_zeros(drawer, which, 7, 2).requires_grad_()
    for method in (dsf.evaluate.chunkwise, dsf.evaluate.recurrent, dsf.evaluate.scan):

        def response(decay, method=method):
            return method(dsf.System.from_write_and_read(Diagonal(decay), write, read), signal)

        assert torch.autograd.gradcheck(response, decay, fast_mode=True)


@pytest.mark.parametrize("which", ZEROS)
def test_gradients_of_zero_decays_in_every_structure(which):
    drawer = Drawer(15)
    write, read, column = drawer.tensor(7, 2), drawer.tensor(7, 2), drawer.tensor(7, 2, 1)
    signal = drawer.tensor(7, 1, 17)
    shapes = {
        (7,): lambda decay: ScaledIdentity(decay, 2),
        (7, 1): lambda decay: DiagonalPlusLowRank(decay.expand(7, 2), column, column),
        (7, 2): lambda decay: DiagonalPlusLowRank(decay, column, column),
    }
    for shape, transition in shapes.items():
        decay = decay_with_zeros(drawer, which, *shape).requires_grad_()

        def response(decay, transition=transition):
            system = dsf.System.from_write_and_read(transition(decay), write, read)
            return dsf.evaluate.chunkwise(system, signal)

        assert torch.autograd.gradcheck(response, decay, fast_mode=True)


@structures
def test_gradients_stay_finite_where_products_underflow(structure):
    """Single precision, 200 tokens that halve 75 times each: products are zero, factors are not."""
    system, signal, _ = draw(structure, lambda decay, _: torch.full_like(decay, np.exp(-50.0)), 200)
    decay = system.A.decay.clone().requires_grad_()
    again = dsf.System(replace(system.A, decay=decay), system.B, system.C)
    response = dsf.evaluate.chunkwise(again, signal)
    (gradient,) = torch.autograd.grad(response.square().sum(), decay)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_half_precision_is_calculated_in_single_and_rounded_once(dtype, structure):
    system = Drawer(16, dtype=dtype).system(structure, steps=100)
    signal = Drawer(17, dtype=dtype).tensor(100, 1, 12)
    single = dsf.systems.algebra.converted(system, dtype=torch.float32)
    expected = dsf.respond(single, signal.float()).to(dtype)
    for method in (dsf.evaluate.chunkwise, dsf.evaluate.recurrent, dsf.evaluate.scan):
        response = dsf.respond(system, signal, method=method)
        assert response.dtype == dtype
        torch.testing.assert_close(response, expected, rtol=1e-2, atol=1e-4)
        assert (response == expected).double().mean() > 0.99
    assert dsf.attention_map(system).dtype == dtype
