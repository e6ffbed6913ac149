"""How tensors lie in memory when a kernel takes them."""

from jaxtyping import Shaped
from torch import Tensor


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
