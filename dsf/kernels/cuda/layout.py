"""How tensors lie in memory when a kernel takes them, and how kernels are launched."""

from typing import Any, no_type_check

import triton
import triton.language as tl
from jaxtyping import Shaped
from torch import Tensor

# Measured with the assembler of sm_80 and sm_90: with fewer warps registers spill, and with loads
# ahead of time the loop over chunks asks for more shared memory than a device has.
LAUNCH: dict[str, Any] = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


def laid(part: Shaped[Tensor, "head ..."]) -> tuple[Tensor, int]:
    """``part`` without gaps behind its first axis, and the distance from head to head.

    What all heads share stays stored once: the distance is then zero.
    """
    if part.stride(0) == 0 or len(part) == 1:
        return part[:1].contiguous(), 0
    part = part.contiguous()
    return part, part.stride(0)


def power_of_two(size: int, *, least: int = 16) -> int:
    """The smallest power of two that holds ``size``, at least what a matrix product takes."""
    return max(least, 1 << (size - 1).bit_length())


@triton.jit
@no_type_check
def vectors(part, t, n, steps, states):
    """Of the tokens ``t`` the entries ``n``; zeros outside."""
    there = ((t >= 0) & (t < steps))[:, None] & (n < states)[None, :]
    return tl.load(part + t[:, None] * states + n[None, :], mask=there, other=0.0)
