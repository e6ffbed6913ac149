"""Scratch memory for computations block by block."""

from math import prod

import torch
from torch import Tensor


class WorkMemory:
    """Named scratch buffers, reused between blocks: new pages take ten times as long to write."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, shape: tuple[int, ...], *, most: int = 0) -> Tensor:
        """Return a contiguous, uninitialised tensor in the buffer of this name.

        Args:
            like: a tensor of its number type and device.
            most: number of entries of the largest tensor to come, if that is known.
        """
        size, held = prod(shape), self._held.get(name)
        fits = held is not None and held.numel() >= size
        if held is None or not fits or (held.dtype, held.device) != (like.dtype, like.device):
            held = self._held[name] = torch.empty(
                max(size, most), dtype=like.dtype, device=like.device
            )
        return held[:size].view(shape)
