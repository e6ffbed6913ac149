"""Memory layout of the tensors that CUDA kernels take, and the launch options of all kernels."""

from typing import Any, no_type_check

import triton
import triton.language as tl
from jaxtyping import Shaped
from torch import Tensor

# Seen in the assembler output for sm_80 and sm_90: with fewer warps registers spill, and with
# software pipelining the loop over chunks needs more shared memory than a device has.
LAUNCH: dict[str, Any] = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


def laid(part: Shaped[Tensor, "head ..."]) -> tuple[Tensor, int]:
    """``part`` contiguous after its first axis, and the distance from head to head.

    A part that all heads share is stored once: the distance is then zero.
    """
    if part.stride(0) == 0 or len(part) == 1:
        return part[:1].contiguous(), 0
    part = part.contiguous()
    return part, part.stride(0)


def power_of_two(size: int, *, least: int = 16) -> int:
    """The smallest power of two >= ``size`` and ``least``, by default that of a matrix product."""
    return max(least, 1 << (size - 1).bit_length())


@triton.jit
@no_type_check
def vectors(part, t, n, steps, states):
    """The entries ``n`` of the tokens ``t``, zeros outside the array."""
    there = ((t >= 0) & (t < steps))[:, None] & (n < states)[None, :]
    return tl.load(part + t[:, None] * states + n[None, :], mask=there, other=0.0)
