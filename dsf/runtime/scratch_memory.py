"""Memory that one block of rows after another is computed in."""

from math import prod

import torch
from torch import Tensor


class WorkMemory:
    """Memory by names, kept from block to block: new pages take ten times as long to write."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, shape: tuple[int, ...], *, most: int = 0) -> Tensor:
        """A contiguous tensor of any content, in the memory that the last of this name had.

        Args:
            like: a tensor of its number type and device.
            most: the entries of the largest that is going to be asked for, if that is known.
        """
        size, held = prod(shape), self._held.get(name)
        fits = held is not None and held.numel() >= size
        if held is None or not fits or (held.dtype, held.device) != (like.dtype, like.device):
            held = self._held[name] = torch.empty(
                max(size, most), dtype=like.dtype, device=like.device
            )
        return held[:size].view(shape)
