"""Several numbers for every key coordinate: a small matrix that acts on all coordinates alike."""

import torch
from jaxtyping import Inexact
from torch import Tensor


def on_every_coordinate(
    small: Inexact[Tensor, "*batch time rows columns"], size: int
) -> Inexact[Tensor, "*batch time tall wide"]:
    """``small ⊗ I`` with the identity of ``size``: coordinates of one kind lie together."""
    identity = torch.eye(size, dtype=small.dtype, device=small.device)
    spread = small[..., :, None, :, None] * identity[:, None, :]
    return spread.flatten(-2).flatten(-3, -2)
