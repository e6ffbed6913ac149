"""Fresh memory in large pages: the system stops for every page that is touched for the first time.

Filling memory page by page of 4 KB takes four times as long as in pages of 2 MB, which the system
gives on request. NumPy asks for them, PyTorch does not unless it is told to before it starts.
"""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.kernels.availability import NUMBERS


def new_zeros(like: Tensor, shape: tuple[int, ...]) -> Shaped[Tensor, "..."]:
    """Zeros of the number type and on the device of ``like``."""
    if like.device.type != "cpu" or like.dtype not in NUMBERS:
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(shape, str(like.dtype).removeprefix("torch.")))
