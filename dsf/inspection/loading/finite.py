"""Weights that are not numbers."""

import torch
from jaxtyping import Shaped
from torch import Tensor, nn


def non_finite_weights(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and stored buffers that hold NaN or an infinity, in order."""
    return tuple(name for name, tensor in model.state_dict().items() if not all_finite(tensor))


def all_finite(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether every element is a finite number; no second tensor of this size is made."""
    if tensor.numel() == 0 or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    least, most = torch.aminmax(real.float() if real.itemsize == 1 else real)
    return bool(torch.isfinite(least) and torch.isfinite(most))
