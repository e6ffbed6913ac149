"""The kernel becomes machine code for two generations of cards, and fits them; none is needed.

What is compiled is what the joining code asks for: its launches are recorded, not run.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from dsf.evaluate import compiled as cuda
from dsf.evaluate.loops import channels_of
from tests.drawn import Drawer
from tests.systems.kernels.test_same_numbers import coefficients

triton = pytest.importorskip("triton", reason="triton is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.pipeline,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled"),
    pytest.mark.filterwarnings("ignore"),  # of compilers
]

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that one program can have
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
SPILL = 1024  # bytes of a thread: more would be a kernel that lives in memory


def launches(monkeypatch, work):
    """Every kernel that ``work`` launches: the function, its arguments by name, its options."""
    from triton.runtime.jit import JITFunction

    seen = []

    def record(kernel, *arguments, **named):
        del named["grid"], named["warmup"]
        names = [param.name for param in kernel.params]
        given = dict(zip(names, arguments, strict=False)) | named
        seen.append((kernel, {name: given.pop(name) for name in names}, given))

    with monkeypatch.context() as patched:
        patched.setattr(JITFunction, "run", record)
        work()
    return seen


def compiled(kernel, arguments, options, generation):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, fixed, aligned = {}, {}, {}
    for at, param in enumerate(kernel.params):
        value = arguments[param.name]
        if param.is_constexpr:
            signature[param.name], fixed[at,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            single = value.dtype == torch.float32
            signature[param.name] = "*fp32" if single else "*fp64"
            aligned[at,] = [["tt.divisibility", 16]]
        else:
            signature[param.name] = "i32"
    source = ASTSource(kernel, signature, fixed, aligned)
    return triton.compile(source, target=GPUTarget("cuda", generation, 32), options=options)


def usage(binary, folder):
    """Registers, and bytes that did not fit into them, of every thread."""
    file = folder / "kernel.cubin"
    file.write_bytes(binary.asm["cubin"])
    command = [TOOL, "-res-usage", file]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(re.search(rf"{word}:(\d+)", told)[1]) for word in ("REG", "STACK"))


def fits(launched, generation, folder):
    kernel, arguments, options = launched
    binary = compiled(kernel, arguments, options, generation)
    _, spilled = usage(binary, folder)
    assert binary.metadata.shared <= SHARED[generation]
    assert spilled <= SPILL


@pytest.mark.parametrize(("generation", "states"), [(90, 16), (80, 256)])
def test_the_scan_fits(states, generation, monkeypatch, tmp_path):
    drawer = Drawer(1, dtype=torch.float32)

    def decay(*size):
        return drawer.real(*size, low=0.1, high=1.0)

    system = coefficients("selective", decay, drawer, steps=9, states=states)
    channels = channels_of(system, drawer.tensor(3, 9, 1, 1))
    (launched,) = launches(monkeypatch, lambda: cuda.scanned(channels))
    fits(launched, generation, tmp_path)
