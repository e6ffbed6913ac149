"""Activations of recurrent networks, with the slopes that make them linear along a trajectory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SMALL = 1e-3


@dataclass(frozen=True)
class Activation:
    """A function of one number that is zero at zero.

    Attributes:
        value: the function itself.
        secant: slope of the line from the origin, ``value(a) / a``: ``value(a) = secant(a) a``.
        slope: the derivative.
    """

    value: Callable[[Tensor], Tensor]
    secant: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def tanh_secant(a: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``tanh(a) / a``, and its limit 1 at zero; between 0 and 1."""
    small = a.abs() < SMALL
    away = torch.where(small, 1.0, a)
    square = torch.where(small, a, 0.0).square()
    return torch.where(small, 1 - square / 3 + 2 * square.square() / 15, away.tanh() / away)


def tanh_slope(a: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``1 - tanh(a)^2``."""
    return 1 - a.tanh().square()


def positive(a: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """One where ``a`` is above zero, else zero."""
    return (a > 0).to(a.dtype)


TANH = Activation(value=torch.tanh, secant=tanh_secant, slope=tanh_slope)
RELU = Activation(value=torch.relu, secant=positive, slope=positive)
