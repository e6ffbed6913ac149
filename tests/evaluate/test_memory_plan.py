"""What a plan says an operation takes holds it, and is not four times too much."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dsf
from dsf.evaluate import MapTooLarge
from dsf.evaluate.memory_plan import check_plan
from dsf.mixers import Mamba3

ROOT = Path(__file__).resolve().parents[2]

# Peaks are those of a process of its own: the one of a test run was reached long ago.
PROGRAM = """
import ctypes, json, torch
import dsf
from dsf import measures
from dsf.evaluate import memory_plan
from dsf.mixers import GatedDeltaNet, SelectiveStateSpace, StateSpaceDuality

def status(field):
    with open("/proc/self/status", encoding="ascii") as report:
        return next(int(line.split()[1]) * 1024 for line in report if line.startswith(field))

def peak(work):
    work()  # compiles, and fills the pools of the libraries
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as switch:
        switch.write("5")
    held = status("VmRSS")
    work()
    return status("VmHWM") - held

torch.set_num_threads(1)
normal = torch.randn
def duality(heads, steps):
    step = torch.rand(heads, steps)
    vectors = normal(1, steps, 64), normal(1, steps, 64)
    value = torch.zeros(()).expand(heads, steps, 1)
    pole = -torch.linspace(0.1, 1, heads)
    return StateSpaceDuality(value=value, step=step, pole=pole, write=vectors[0], read=vectors[1])

def selective(channels, steps):
    step = torch.rand(steps, channels)
    pole = -torch.arange(1.0, 17).expand(channels, 16)
    vectors = normal(steps, 16), normal(steps, 16)
    value = torch.zeros(()).expand(steps, channels)
    return SelectiveStateSpace(value=value, step=step, pole=pole, write=vectors[0], read=vectors[1])

def fold(system):
    for block in dsf.evaluate.row_blocks(system, overwrites=True):
        block.weights[..., 0].sum()

heads, channels = duality(8, 2048).system(), selective(64, 1024).system()
many = selective(64, 50_000).system()
long, wide = duality(24, 20_000).system(), duality(8, 100_000).system()
asked = [measures.negative_mass, measures.row_entropy, measures.mean_distance]
key, decay = torch.nn.functional.normalize(normal(8, 20_000, 64), dim=-1), -torch.rand(8, 20_000)
rule = {"query": key, "key": key, "rate": torch.rand(8, 20_000), "log_decay": decay}
delta = GatedDeltaNet(value=normal(8, 20_000, 16), **rule).system()
signal, shorter = normal(8, 100_000, 1, 16), normal(24, 20_000, 1, 16)
one = normal(64, 50_000, 1, 1)
cases = {
    "map, one decay": (memory_plan.map_bytes(heads), lambda: dsf.attention_map(heads)),
    "map, diagonal": (memory_plan.map_bytes(channels), lambda: dsf.attention_map(channels)),
    "blocks": (memory_plan.block_bytes(long, 64), lambda: next(dsf.evaluate.row_blocks(long))),
    "blocks, diagonal": (memory_plan.block_bytes(channels, 64), lambda: fold(channels)),
    "respond": (memory_plan.respond_bytes(wide, 16), lambda: dsf.respond(wide, signal)),
    "windows": (memory_plan.respond_bytes(long, 16), lambda: dsf.evaluate.chunkwise(long, shorter)),
    "windows, diagonal": (
        memory_plan.respond_bytes(many, 1), lambda: dsf.evaluate.chunkwise(many, one)
    ),
    "windows, delta rule": (
        memory_plan.respond_bytes(delta, 16), lambda: dsf.evaluate.chunkwise(delta, shorter[:8])
    ),
    "statistics": (
        memory_plan.statistics_bytes(long, 4),
        lambda: measures.streamed(long, *asked, error=1e-2),
    ),
}
print(json.dumps({name: (plan, peak(work)) for name, (plan, work) in cases.items()}))
"""


# Pages that the process itself touches meanwhile: stacks, the allocator, the interpreter.
PROCESS_BYTES = 2**19


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
def test_plans_hold_peaks():
    # Otherwise the allocator of C keeps larger and larger freed blocks for later, by chance.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for name, (plan, peak) in json.loads(run.stdout.splitlines()[-1]).items():
        assert plan / 4 <= peak <= plan + PROCESS_BYTES, (
            f"{name}: planned {plan / 1e6} MB, took {peak / 1e6} MB"
        )


def test_mamba3_holds_no_matrix_of_its_states():
    rng = torch.Generator().manual_seed(0)
    small = Mamba3.draw(rng, steps=64)
    wide = replace(small, query=small.query.repeat(1, 1, 20), key=small.key.repeat(1, 1, 20))
    stored = [part.numel() for part in vars(wide.system().A).values() if torch.is_tensor(part)]
    assert sum(stored) == 2 * 64 * 4


def test_what_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr("dsf.evaluate.memory_plan.free_memory", lambda _: 4_000_000_000)
    with pytest.raises(MapTooLarge, match=r"2\.5 GB .* 4\.0 GB"):
        check_plan("test", 2_500_000_000, torch.device("cpu"), cure="Cure.")
    check_plan("test", 2_000_000_000, torch.device("cpu"), cure="Cure.")
    system = dsf.mixers.DeltaNet.draw(torch.Generator(), steps=2).system()
    signal = torch.zeros(()).expand(*system.batch, 2, 1, 2**28)
    with pytest.raises(MapTooLarge, match="final_state"):
        dsf.respond(system, signal)
