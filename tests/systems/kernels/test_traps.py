"""What made compiled loops, and torch beside them, many times slower: threads, memory, layout.

What slows the loops themselves down is in ``test_speed.py``.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dsf
from dsf import measures
from dsf.evaluate import row_blocks
from dsf.mixers import SelectiveStateSpace, StateSpaceDuality
from dsf.systems import kernels as availability
from tests.drawn import Drawer

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "dsf"
CALL_NUMBA = {"njit", "prange", "vectorize", "guvectorize"}


def trees(paths):
    """Read where they are looked at: kept, all files are a million objects in every test's way."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def named(tree):
    """Every name and attribute in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def forks(tree):
    """Calls that ask for threads of the compiler."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "parallel":
            yield node
        if isinstance(node, ast.Attribute | ast.Name) and next(named(node)) == "prange":
            yield node


def compiled_loops(tree):
    """Functions under ``@kernel``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and "kernel" in {
            name for decorator in node.decorator_list for name in named(decorator)
        }:
            yield node


def test_no_loop_brings_threads_of_its_own():
    files = trees(PACKAGE.rglob("*.py"))
    assert [path.name for path, tree in files.items() if list(forks(tree))] == []
    compilers = {path for path, tree in files.items() if CALL_NUMBA & set(named(tree))}
    assert compilers == {PACKAGE / "systems" / "kernels" / "compiling.py"}
    planted = ast.parse("@numba.njit(parallel=True)\ndef f(x):\n    for i in numba.prange(9): pass")
    assert len(list(forks(planted))) == 2


# Two threads of torch before and after loops that themselves ran on two, in a fresh process.
PROGRAM = '''
import json, time, torch, numba
import dsf
from dsf.systems import kernels as availability
from dsf.mixers import StateSpaceDuality

def shortest(work, enough=0.0):
    """Of 60 turns; of as many as five seconds hold until one is ``enough``: others are at work."""
    taken, end = [], time.monotonic() + 5
    while len(taken) < 60 or (enough and min(taken) > enough and time.monotonic() < end):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)

availability.WORTH = 0
torch.set_num_threads(2)
numbers = torch.ones(2**17)
before = shortest(lambda: numbers + numbers)
mixer = StateSpaceDuality.draw(torch.Generator().manual_seed(0), steps=70)
system = mixer.system()
wide = torch.ones(*system.batch, system.steps, 1, 70, dtype=system.dtype)
dsf.respond(system, wide)
dsf.attention_map(system)
after = shortest(lambda: numbers + numbers, enough=10 * before)
try:
    layer = numba.threading_layer()
except ValueError:
    layer = ""
print(json.dumps({"before": before, "after": after, "layer": layer}))
'''


def test_torch_keeps_its_two_threads():
    """Threads of the compiler beside them made every operation a hundred times slower."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["layer"] == ""
    assert found["after"] < 10 * found["before"]


class NewMemory(TorchDispatchMode):
    """The largest memory that any operation of torch makes, in numbers."""

    largest = 0

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        del kinds
        given = {
            part.untyped_storage().data_ptr() for part in args if isinstance(part, torch.Tensor)
        }
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.largest = max(self.largest, made.untyped_storage().size() // made.itemsize)
        return made


def duality(steps, *, heads=2, states=8):
    drawer = Drawer(1, dtype=torch.float32)
    return StateSpaceDuality(
        value=torch.zeros(heads, steps, 1),
        step=drawer.real(heads, steps, low=0.1),
        pole=-drawer.real(heads, low=0.1),
        write=drawer.tensor(1, steps, states),
        read=drawer.tensor(1, steps, states),
    )


def selective(steps, *, channels=2, states=8):
    """Token after token in memory, as a layer has them."""
    drawer = Drawer(2, dtype=torch.float32)
    return SelectiveStateSpace(
        value=drawer.tensor(steps, channels),
        step=drawer.real(steps, channels, low=0.001, high=0.1),
        pole=-drawer.real(channels, states, low=0.5, high=8.0),
        write=drawer.tensor(steps, states),
        read=drawer.tensor(steps, states),
        feedthrough=drawer.tensor(channels),
    )


@pytest.mark.parametrize("mixer", [duality, selective])
def test_a_map_is_written_once_and_a_fold_has_one_workspace(mixer, monkeypatch):
    """A fresh map costs five to twenty times what writing to the same memory does."""
    monkeypatch.setattr(availability, "WORTH", 0)
    system = mixer(1024).system()
    out = torch.empty(*system.batch, 1024, 1024)
    with NewMemory() as seen:
        dsf.attention_map(system, out=out)
    assert 0 < seen.largest <= out.numel() // 8
    places = {
        rows.weights.untyped_storage().data_ptr() for rows in row_blocks(system, overwrites=True)
    }
    assert len(places) == 1
    with NewMemory() as seen:
        measures.row_entropy(system)
    assert 0 < seen.largest <= out.numel() // 8


def innermost(tree):
    """The loops that hold no other, or all of a function that has none and is called in loops."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    inside = [loop for loop in loops if sum(isinstance(n, ast.For) for n in ast.walk(loop)) == 1]
    return inside or [tree]


def exponentials(tree):
    """Calls and powers that the compiler has no vector form of."""
    called = {"exp", "exp2", "expm1", "pow", "power"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Pow):
            yield node
        if isinstance(node, ast.Call) and next(named(node.func)) in called:
            yield node


def test_no_inner_loop_calls_an_exponential():
    """Decays go through ``exponentials.py``; once a row is no matter."""
    files = trees((PACKAGE / "systems" / "kernels").glob("*.py"))
    loops = [loop for tree in files.values() for loop in compiled_loops(tree)]
    assert len(loops) > 20
    assert [
        loop.name
        for loop in loops
        if any(found for part in innermost(loop) for found in exponentials(part))
    ] == []
    planted = ast.parse("def f(x):\n for r in x:\n  for i in r:\n   np.exp(i)")
    assert len([*exponentials(*innermost(planted))]) == 1


def test_time_comes_first_where_channels_lie_side_by_side(monkeypatch):
    """No copy between a layer and the loop; cutting time out of its middle costs ten times more."""
    from dsf.systems.kernels import recurrences as loops

    mixer, given = selective(70, channels=64), {}

    def look(step, value, *others, into):
        given.update(step=step, value=value, response=into[0])
        return run(step, value, *others, into=into)

    run = loops.selective_scan
    monkeypatch.setattr(availability, "WORTH", 0)
    monkeypatch.setattr(loops, "selective_scan", look)
    response = dsf.respond(mixer.system(), mixer.signal())
    for name in ("step", "value"):
        assert given[name].data_ptr() == getattr(mixer, name).data_ptr()
    assert response.untyped_storage().data_ptr() == given["response"].untyped_storage().data_ptr()
    assert all(part.stride() == (64, 1) for part in given.values())
