"""Time-invariant systems in scipy's and python-control's hands."""

import numpy as np
import pytest
import scipy.signal
import torch

import dsf
from dsf.report import exchange
from dsf.systems.transition import Dense


@pytest.fixture(params=[False, True], ids=["reads after", "reads before"])
def system(request):
    rng = torch.Generator().manual_seed(0)
    A = 0.4 * torch.randn(3, 3, generator=rng, dtype=torch.float64)
    B = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    C = torch.randn(2, 3, generator=rng, dtype=torch.float64)
    D = torch.randn(2, 2, generator=rng, dtype=torch.float64)
    parts = [part.expand(12, *part.shape) for part in (A, B, C, D)]
    return dsf.System(Dense(parts[0]), *parts[1:], reads_before_update=request.param)


@pytest.fixture
def signal():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(12, 2, 1, generator=rng, dtype=torch.float64)


def test_scipy_gives_the_same_response(system, signal):
    expected = dsf.respond(system, signal).squeeze(-1).numpy()
    _, response, _ = scipy.signal.dlsim(exchange.to_scipy(system), signal.squeeze(-1).numpy())
    np.testing.assert_allclose(response, expected, atol=1e-12)


def test_python_control_gives_the_same_response(system, signal):
    control = pytest.importorskip("control", reason="python-control is not installed")
    theirs = exchange.to_control(system)
    response = control.forced_response(theirs, inputs=signal.squeeze(-1).numpy().T).outputs
    expected = dsf.respond(system, signal).squeeze(-1).numpy().T
    np.testing.assert_allclose(response, expected, atol=1e-12)


def test_what_control_theory_does_not_know_is_refused():
    varying = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=4).system()
    with pytest.raises(ValueError, match="A changes with time"):
        exchange.to_scipy(varying)
