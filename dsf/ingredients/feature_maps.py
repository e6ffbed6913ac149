"""Feature maps of linear attention: functions of queries and keys, along their last axis."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

FeatureMap = Callable[[Tensor], Tensor]


def identity(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """``x`` itself; any sign."""
    return x


def elu_plus_one(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """``x + 1`` above zero, ``exp(x)`` below: above zero and one-to-one.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236.
    """
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def relu(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """``max(x, 0)``: not one-to-one, and a row of zeros is possible."""
    return torch.relu(x)


def leaky_relu(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """``x`` above zero, ``x / 100`` below: any sign, one-to-one."""
    return torch.nn.functional.leaky_relu(x)


def exp(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """``exp(x)``: above zero and one-to-one."""
    return x.exp()


def softplus(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes key"]:
    """``log(1 + exp(x))``: above zero and one-to-one."""
    return torch.nn.functional.softplus(x)


def squares(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes features"]:
    """All products of two entries, so that ``squares(q).squares(k) = (q.k)^2``."""
    return (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def second_order(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes features"]:
    """The exponential series to second order: ``φ(q).φ(k) = 1 + q.k + (q.k)^2 / 2``, at least 1/2.

    Source: Arora et al. 2024, arXiv:2402.18668.
    """
    return torch.cat([torch.ones_like(x[..., :1]), x, squares(x) / 2**0.5], dim=-1)
