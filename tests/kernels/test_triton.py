"""Kernels for CUDA in Triton's interpreter, against the plain path in double precision."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import dsf
from dsf.evaluate import on_cuda
from dsf.evaluate.place import Fresh
from tests.drawn import Drawer
from tests.kernels.test_same_numbers import DECAYS, drawn, error

pytest.importorskip("triton", reason="triton is not installed")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
inside = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_in_the_interpreter")
STRUCTURES = ("scaled_identity", "diagonal", "delta", "scalar delta")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    monkeypatch.setattr(on_cuda, "applies_on_cuda", lambda *_: True)


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter():
    """A process of its own: Triton decides when it is imported whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def plain(work, monkeypatch):
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        return work()


@inside
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("steps", [1, 65])
@pytest.mark.parametrize("regime", ["resets"])
@pytest.mark.parametrize("before", [False, True])
def test_memories(structure, steps, regime, before, monkeypatch):
    drawer = Drawer(1, dtype=torch.float32)
    system, signal = drawn(structure, DECAYS[regime], drawer, steps=steps)
    signal = signal[..., :20]
    held = drawer.tensor(*system.batch, system.state_size, 20)
    system = replace(system, initial=held, reads_before_update=before)
    exact = dsf.algebra.converted(system, dtype=torch.float64)
    response, state = on_cuda.recalled_on_cuda(system, signal)
    wanted = plain(lambda: dsf.respond(exact, signal.double()), monkeypatch)
    left = plain(lambda: dsf.evaluate.final_state(exact, signal.double()), monkeypatch)
    assert error(response.double(), wanted) < 1e-6
    assert error(state.double(), left) < 1e-6


@inside
@pytest.mark.parametrize("structure", ["scaled_identity", "diagonal", "selective"])
@pytest.mark.parametrize("steps", [1, 130])
@pytest.mark.parametrize("regime", ["violent"])
@pytest.mark.parametrize("before", [False, True])
def test_maps(structure, steps, regime, before, monkeypatch):
    system, _ = drawn(structure, DECAYS[regime], Drawer(2, dtype=torch.float32), steps=steps)
    system = replace(system, reads_before_update=before)
    exact = dsf.algebra.converted(system, dtype=torch.float64)
    wanted = plain(lambda: dsf.attention_map(exact), monkeypatch)
    borders = [0, steps] if steps < 70 else [5, 60, 70, steps]
    rows = torch.cat(list(on_cuda.rows_on_cuda(system, borders, Fresh())), dim=-2)
    assert error(rows.double(), wanted[..., borders[0] :, :]) < 1e-6
