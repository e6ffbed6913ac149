"""The loop over complex modes that do not change with time, and when it answers."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.mixers import DiagonalStateSpace
from dsf.systems import kernels as availability
from dsf.systems.kernels import recurrences as modes
from tests.drawn import Drawer


@pytest.fixture
def rung(monkeypatch):
    """How often the loop ran, for any work."""
    count, run = [], modes.modes_response

    def counted(*parts, into):
        count.append(into.shape)
        run(*parts, into=into)

    monkeypatch.setattr(availability, "WORTH", 0)
    monkeypatch.setattr(modes, "modes_response", counted)
    return count


def layer(dtype=torch.float32, steps=700, size=40):
    """More modes than registers, more tokens than a span; some modes are slow, some forget all."""
    drawer = Drawer(5, dtype=dtype)
    rate = -(drawer.real(2, 3, size, low=0.0, high=2.0) ** 4)
    rate[0, 0, :3] = torch.tensor([-1e-6, -1e3, -50])
    return DiagonalStateSpace(
        value=drawer.tensor(2, 3, steps, 1),
        pole=torch.complex(rate, drawer.real(2, 3, size, low=-3.0, high=3.0)),
        write=torch.complex(drawer.tensor(2, 3, size), drawer.tensor(2, 3, size)),
        read=torch.complex(drawer.tensor(2, 3, size), drawer.tensor(2, 3, size)),
        step=drawer.real(2, 3, low=0.5, high=1.0),
        feedthrough=drawer.tensor(2, 3),
    )


def exact(system, signal):
    """Token after token in double precision, the real part of every response."""
    A, B, C = (system.A.diagonal(), system.B[..., 0], system.C[..., 0, :])
    parts = [part.to(torch.complex128) for part in (A, B, C)]
    state, found = 0, []
    for t in range(system.steps):
        a, b, c = (part[..., t, :] for part in parts)
        u = signal[..., t, 0, 0].double()
        state = a * state + b * u[..., None]
        found.append((c * state).sum(-1).real + system.feedthrough[..., t, 0, 0].real * u)
    return torch.stack(found, dim=-1)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-7), (torch.float64, 1e-14)])
def test_the_loop_is_the_recurrence(rung, dtype, error):
    mixer = layer(dtype)
    system, signal = mixer.system(), mixer.signal()
    response = dsf.respond(system, signal)
    assert rung == [(6, 700)]
    assert (response.dtype, response.shape) == (dtype, signal.shape)
    expected = exact(system, signal)
    apart = (response[..., 0, 0] - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert apart.max() < error
    out = torch.full_like(response, torch.nan)
    assert torch.equal(dsf.respond(system, signal, out=out), response)
    assert torch.equal(out, response)


def test_columns_share_their_modes(rung):
    mixer = layer(steps=9)
    system, signal = mixer.system(), mixer.signal()
    several = torch.cat([signal, -2 * signal, signal.flip(-3)], dim=-1)
    response = dsf.respond(system, several)
    assert rung == [(18, 9)]
    torch.testing.assert_close(response, dsf.evaluate.recurrent(system, several))
    out = torch.full_like(response, torch.nan)
    assert torch.equal(dsf.respond(system, several, out=out), response)


@pytest.mark.parametrize("case", ["begun", "backward", "wanted", "complex", "changing"])
def test_what_the_loop_does_not_know_goes_another_way(rung, case):
    mixer = layer(torch.float64, steps=9)
    system, signal = mixer.system(), mixer.signal()
    if case == "begun":
        system = replace(system, initial=system.B[..., 0, :, :])
    elif case == "backward":
        system = dsf.systems.algebra.reverse(system)
    elif case == "wanted":
        signal = signal.requires_grad_(True)
    elif case == "complex":
        system = replace(system, takes_real_part=False)
    else:
        weight = torch.linspace(1, 2, 9, dtype=torch.float64)[:, None, None]
        system = replace(system, C=system.C * weight)
    response = dsf.respond(system, signal)
    assert rung == []
    torch.testing.assert_close(response, dsf.evaluate.recurrent(system, signal))
