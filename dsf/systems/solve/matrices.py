"""Solves with several matrices at once, which may hang in torch (see ``dsf.runtime.threads``)."""

import torch
from jaxtyping import Shaped
from torch import Tensor

SAFE = 128
"""Matrices of as many rows are factorised without threads of MKL's own."""


def solved(
    matrices: Shaped[Tensor, "*batch size size"], columns: Shaped[Tensor, "*batch size count"]
) -> Shaped[Tensor, "*batch size count"]:
    """``matrices⁻¹ columns``; larger matrices one after the other.

    Raises:
        torch.linalg.LinAlgError: if one of them cannot be inverted.
    """
    batch = torch.broadcast_shapes(matrices.shape[:-2], columns.shape[:-2])
    if matrices.shape[-1] <= SAFE or batch.numel() < 2 or matrices.device.type != "cpu":
        return torch.linalg.solve(matrices, columns)
    several = matrices.expand(*batch, *matrices.shape[-2:]).flatten(0, -3)
    sides = columns.expand(*batch, *columns.shape[-2:]).flatten(0, -3)
    pairs = zip(several, sides, strict=True)
    found = [torch.linalg.solve(matrix, side) for matrix, side in pairs]
    return torch.stack(found).view(*batch, *columns.shape[-2:])
