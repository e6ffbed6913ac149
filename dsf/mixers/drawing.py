"""Random coefficients for ``draw``: float64, from an explicit generator."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from dsf.runtime.shapes import of_kind

GENERATOR = "a generator such as torch.Generator().manual_seed(0)"
Module = TypeVar("Module", bound=torch.nn.Module)
Law = Callable[..., Tensor]
"""A function of a generator and the sizes of the axes."""

SIZES: Mapping[str, tuple[int, ...]] = {
    "*batch": (2,),
    "*leading": (),
    "*one_or_state": (4,),
    "key": (4,),
    "state": (4,),
    "taps": (4,),
    "slot": (5,),
}
"""Sizes of axes by name; 3 for all others."""


def laws(**parts: Any) -> Mapping[str, Any]:
    """How fields are drawn, by name: laws of tensors, options, or sizes of axes."""
    return MappingProxyType(parts)


def normal(rng: torch.Generator, *size: int) -> Tensor:
    """Standard normal numbers."""
    of_kind("draw", "rng", rng, torch.Generator, GENERATOR)
    return torch.randn(*size, generator=rng, dtype=torch.float64)


def uniform(rng: torch.Generator, *size: int, low: float, high: float) -> Tensor:
    """Uniformly distributed numbers between ``low`` and ``high``."""
    of_kind("draw", "rng", rng, torch.Generator, GENERATOR)
    return low + (high - low) * torch.rand(*size, generator=rng, dtype=torch.float64)


def between(low: float, high: float) -> Law:
    """The law of uniformly distributed numbers between ``low`` and ``high``."""
    return partial(uniform, low=low, high=high)


def minus(low: float, high: float) -> Law:
    """The law of uniformly distributed numbers between ``-high`` and ``-low``."""
    return lambda rng, *size: -uniform(rng, *size, low=low, high=high)


def spread(rng: torch.Generator, *size: int) -> Tensor:
    """Normal numbers with a standard deviation of two."""
    return 2 * normal(rng, *size)


def directions(rng: torch.Generator, *size: int) -> Tensor:
    """Random vectors of length one along the last axis."""
    return unit(normal(rng, *size))


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
