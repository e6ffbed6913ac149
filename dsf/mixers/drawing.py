"""Random coefficients for ``draw``: float64, from an explicit generator."""

from typing import TypeVar

import torch
from torch import Tensor

from dsf.runtime.shapes import of_kind

GENERATOR = "a generator such as torch.Generator().manual_seed(0)"
Module = TypeVar("Module", bound=torch.nn.Module)


def normal(rng: torch.Generator, *size: int) -> Tensor:
    """Standard normal numbers."""
    of_kind("draw", "rng", rng, torch.Generator, GENERATOR)
    return torch.randn(*size, generator=rng, dtype=torch.float64)


def uniform(rng: torch.Generator, *size: int, low: float, high: float) -> Tensor:
    """Uniformly distributed numbers between ``low`` and ``high``."""
    of_kind("draw", "rng", rng, torch.Generator, GENERATOR)
    return low + (high - low) * torch.rand(*size, generator=rng, dtype=torch.float64)


def complex_normal(rng: torch.Generator, *size: int) -> Tensor:
    """Complex numbers with standard normal parts."""
    return torch.complex(normal(rng, *size), normal(rng, *size))


def poles(rng: torch.Generator, *size: int) -> Tensor:
    """Stable continuous-time poles: real part in -1.5 ... -0.1, imaginary part in -3 ... 3."""
    return torch.complex(
        uniform(rng, *size, low=-1.5, high=-0.1), uniform(rng, *size, low=-3.0, high=3.0)
    )


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length one along the last axis."""
    return vectors / vectors.norm(dim=-1, keepdim=True)


def with_drawn_weights(rng: torch.Generator, module: Module) -> Module:
    """A module that was made on the meta device, with random parameters without gradients."""
    module = module.to_empty(device="cpu").requires_grad_(False)
    for weight in module.parameters():
        weight.copy_(0.6 * normal(rng, *weight.shape))
    return module
