"""Norms whose squares stay inside the range of the number type."""

import torch
from torch import Tensor


def norm(weights: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """The l2 norm along ``dim``, without squares that leave the range of the number type."""
    if not weights.numel():
        return torch.linalg.vector_norm(weights, dim=dim)
    size = weights.abs()
    largest = size.detach().amax(dim=dim, keepdim=True)
    least, most = safe_range(largest.dtype)
    safe = (largest >= least) & (largest <= most)
    unit = torch.where(safe | ~(largest > 0) | largest.isinf(), 1, largest)
    return torch.linalg.vector_norm(weights / unit, dim=dim) * unit.squeeze(dim)


def safe_range(dtype: torch.dtype) -> tuple[float, float]:
    """Magnitudes between which sums of squares keep all their digits."""
    limits = torch.finfo(dtype)
    return (limits.tiny / limits.eps) ** 0.5, (limits.max * limits.eps) ** 0.5
