"""Maps and reports: their memory is told before the run, refused in words, named where it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dsf
from dsf.evaluate import MapTooLarge, memory_plan
from dsf.inspection import InspectedLayer, Inspection, memory_forecast
from dsf.mixers import SelectiveStateSpace

ROOT = Path(__file__).resolve().parents[2]
CHANNELS, TOKENS = 1536, 8192


class NothingLarge(TorchDispatchMode):
    """Fails where an operation makes a tensor of more than a megabyte."""

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, torch.Tensor):
                assert part.untyped_storage().nbytes() <= 2**20, function
        return made


def mamba_layer(channels=CHANNELS, tokens=TOKENS, states=16):
    """A Mamba layer of real size whose coefficients are single numbers, expanded."""
    one = torch.ones((), dtype=torch.float64)
    mixer = SelectiveStateSpace(
        value=one.expand(1, tokens, channels),
        step=(one / 9).expand(1, tokens, channels),
        pole=-one.expand(channels, states),
        write=one.expand(1, tokens, states),
        read=one.expand(1, tokens, states),
        feedthrough=one.expand(channels),
    )
    return InspectedLayer("layers.0.mixer", "mamba", mixer, ("sample", "channel"), 0.0, 1e-12)


def test_all_maps_of_a_mamba_layer_are_refused_before_anything_is_allocated():
    layer = mamba_layer()
    needed = 8 * CHANNELS * TOKENS**2 / 1e9
    words = rf"layers\.0\.mixer: all its maps.*{needed:.1f} GB.*heads=\[0, 1\].*contribution_norms"
    with NothingLarge(), pytest.raises(MapTooLarge, match=words):
        layer.map()
    assert layer.map(-1).shape == (1, CHANNELS, 1, TOKENS)


def test_a_report_that_does_not_fit_is_refused_before_it_is_drawn(monkeypatch, tmp_path):
    layer = mamba_layer(channels=64, tokens=300)
    inspection = Inspection((layer,), model="one")
    monkeypatch.setattr("dsf.report.content.free_memory", lambda _: 10**8)

    def drawn(*_, **__):
        raise AssertionError("it was drawn")

    monkeypatch.setattr("dsf.report.content.select", drawn)
    monkeypatch.setattr("dsf.report.figure.layer_picture", drawn)
    with pytest.raises(MapTooLarge, match="full_resolution=0"):
        dsf.show(inspection, tmp_path / "report.html")
    with pytest.raises(MapTooLarge, match="draw_grid"):
        dsf.report.draw_grid(inspection, tmp_path / "maps.png")
    assert not list(tmp_path.iterdir())


# The plan is told that memory has no end, and the process is given little: whatever is left to
# chance ends in torch's allocator, as on a machine whose memory others take meanwhile.
PROGRAM = """
import resource, sys, torch, dsf
from dsf.evaluate import MapTooLarge, memory_plan
from tests.inspection.test_maps_in_memory import mamba_layer
from dsf.inspection import Inspection
import dsf.report.content
from dsf.report import draw_grid
layer = mamba_layer(channels=64, tokens=2048)
small = Inspection((mamba_layer(channels=64, tokens=256),), model="one")
dsf.show(small, sys.argv[1])  # loads and compiles what is needed
small[0].map()
for room in (memory_plan, dsf.report.content):
    room.free_memory = lambda _: None
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 60 * 2**20,) * 2)
inspection = Inspection((layer,), model="one")
for what in (layer.map, lambda: dsf.show(inspection, sys.argv[1])):
    try:
        what()
    except MapTooLarge as error:
        print(type(error.__cause__).__name__, str(error)[:60])
"""


def test_memory_that_runs_out_under_a_limit_of_the_process_is_named(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "report.html")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    assert all("the memory of this machine ran out" in line for line in lines), lines


def test_what_runs_out_inside_keeps_its_own_words():
    with (
        pytest.raises(MapTooLarge, match=r"here: .*MemoryError"),
        memory_plan.naming_out_of_memory("here", cure="Do less."),
    ):
        raise MemoryError
    for error in (MapTooLarge("as it is"), ValueError("memory"), RuntimeError("wrong shape")):
        with (
            pytest.raises(type(error), match=str(error)),
            memory_plan.naming_out_of_memory("here", cure="Do less."),
        ):
            raise error


def test_the_forecast_tells_the_maps_of_an_lstm():
    found = memory_forecast(torch.nn.LSTM(3, 4), torch.ones(6, 1, 3), memory=1e9)
    assert "0.0 GB" not in found.worded()
    long = memory_forecast(torch.nn.LSTM(3, 4), torch.ones(20_000, 1, 3), memory=1e9)
    assert (long.samples, long.largest_maps) == (1, 4 * 20_000**2 * 8)
    assert long.worded().endswith("all maps would take 12.8 GB, up to 12.8 GB a layer")
