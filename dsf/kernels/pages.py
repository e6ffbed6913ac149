"""Fresh memory in large pages: the system stops for every page that is touched for the first time.

Filling memory page by page of 4 KB takes four times as long as in pages of 2 MB, which the system
gives on request. NumPy asks for them, PyTorch does not unless it is told to before it starts. On a
virtual machine whose free memory goes back to its host they take up to four times as long instead,
after a pause, so what is very large goes without them.
"""

from math import prod

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.kernels.availability import NUMBERS

MOST = 2**28  # bytes


def new_empty(like: Tensor, shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
    """Memory that holds anything, of the number type and on the device of ``like``."""
    if not _in_large_pages(like, shape):
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, _name(like)))


def new_zeros(like: Tensor, shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
    """Zeros of the number type and on the device of ``like``."""
    if not _in_large_pages(like, shape):
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, _name(like)))


def _in_large_pages(like: Tensor, shape: tuple[int, ...]) -> bool:
    known = like.device.type == "cpu" and like.dtype in NUMBERS
    return known and prod(shape) * like.dtype.itemsize < MOST


def _name(like: Tensor) -> str:
    return str(like.dtype).removeprefix("torch.")
