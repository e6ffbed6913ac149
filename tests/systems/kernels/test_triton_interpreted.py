"""Kernels for CUDA in Triton's interpreter, against the plain path in double precision.

Collected only where Triton interprets: test_triton.py starts a process for that.
"""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.evaluate import compiled as cuda
from dsf.evaluate.loops import channels_of
from dsf.systems import kernels as availability
from tests.drawn import Drawer
from tests.systems.kernels.test_same_numbers import (
    DECAYS,
    drawn,
    error,
    without_kernels,
)

HERE = torch.device("cpu")


@pytest.mark.parametrize("steps", [1, 65])
def test_responses(steps, monkeypatch):
    drawer = Drawer(1, dtype=torch.float32)
    system, signal = drawn("selective", DECAYS["resets"], drawer, steps=steps)
    signal = signal[..., :20]
    held = drawer.tensor(*system.batch, system.state_size, signal.shape[-1])
    system = replace(system, initial=held)
    exact = dsf.systems.algebra.converted(system, dtype=torch.float64)
    response, state = cuda.scanned(channels_of(system, signal))
    wanted = without_kernels(monkeypatch, lambda: dsf.respond(exact, signal.double()))
    left = without_kernels(monkeypatch, lambda: dsf.evaluate.final_state(exact, signal.double()))
    assert error(response.double(), wanted) < 1e-6
    assert error(state.double(), left) < 1e-6


@pytest.mark.parametrize("structure", ["scaled_identity", "selective"])
def test_what_is_on_a_card_meets_the_kernel(structure, monkeypatch):
    """The interpreter's tensors are taken for a card's."""
    monkeypatch.setattr(availability, "CUDA", "cpu")
    monkeypatch.setattr(availability, "why_off_on_cuda", lambda: "")
    monkeypatch.setattr(cuda, "WORTH", 0)
    monkeypatch.setattr(cuda, "_agrees", {})
    drawer = Drawer(4, dtype=torch.float32)
    system, signal = drawn(structure, DECAYS["ordinary"], drawer, steps=9)
    answer = cuda.answered_on_cuda(system, signal)
    assert (answer is None) == (structure != "selective")
    assert all(cuda._agrees.values())
