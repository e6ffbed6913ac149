"""Compiled inner loops on plain arrays, by numba on a CPU and by Triton on CUDA.

The modules with loops import numba or triton, so they are imported only where they are used. This
file imports neither: it says whether they may run, on this machine and for given tensors.
"""

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor
from torch.autograd import forward_ad

SWITCH = "DSF_KERNELS"
OFF = ("0", "off", "false", "no")
ON = ("", "1", "on", "true", "yes")

# For fewer state updates, torch operations take less time than loading the compiler.
WORTH = 2**20

CUDA = "cuda"
CAPABILITY = (8, 0)  # of the oldest devices for which the kernels are checked
NUMBERS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def why_off() -> str:
    """Why compiled loops are off on this machine; empty if they are on."""
    return _switched_off() or ("" if _is_installed("numba") else "numba is not installed")


def why_off_on_cuda() -> str:
    """Why Triton kernels are off on this machine; empty if they are on."""
    off = _switched_off()
    if off or not _is_installed("triton"):
        return off or "triton is not installed"
    if not torch.cuda.is_available():
        return "no CUDA device"
    found = torch.cuda.get_device_capability()
    return "" if found >= CAPABILITY else f"the device has capability {found}, below {CAPABILITY}"


def _switched_off() -> str:
    asked = os.environ.get(SWITCH, "").strip().lower()
    if asked not in (*OFF, *ON):
        raise ValueError(
            f"{SWITCH}={asked} is not a known value: 0 turns compiled loops and kernels off, and 1 "
            "is the default."
        )
    return f"{SWITCH}={asked} turns them off" if asked in OFF else ""


@cache
def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def found() -> str:
    """The compiler of the CPU loops and its version, or why they are off."""
    reason = why_off()
    if reason:
        return f"off: {reason}"
    return f"numba {version('numba')} on cpu, compiled at first use and kept on disk"


def applies(*parts: Tensor, work: int) -> bool:
    """Whether a compiled loop may process ``parts``; otherwise torch operations are used.

    ``work``, the number of updates of single states, must be large enough. All parts must be
    strided CPU tensors of one number type without gradients and outside function transforms and
    tracing: the loops have no derivatives, torch operations have them of every kind.
    """
    if work < WORTH or torch.compiler.is_compiling() or why_off():
        return False
    alike = len({part.dtype for part in parts}) == 1
    return alike and all(part.dtype in NUMBERS and _is_bare(part, "cpu") for part in parts)


def applies_on_cuda(*parts: Tensor) -> bool:
    """The same for the Triton kernel, which takes single precision on one CUDA device."""
    if any(part.device.type != CUDA or part.dtype != torch.float32 for part in parts):
        return False
    if torch.compiler.is_compiling() or why_off_on_cuda():
        return False
    return len({part.device for part in parts}) == 1 and all(_is_bare(part, CUDA) for part in parts)


def _is_bare(part: Tensor, kind: str) -> bool:
    plain = type(part) in (Tensor, torch.nn.Parameter) and part.layout == torch.strided
    if not plain or part.device.type != kind:
        return False
    if part.requires_grad and torch.is_grad_enabled():
        return False
    return _has_memory(part) and forward_ad.unpack_dual(part).tangent is None


def _has_memory(part: Tensor) -> bool:
    """Whether the tensor has memory of its own, unlike those inside a function transform."""
    try:
        part.data_ptr()
    except RuntimeError:
        return False
    return True
