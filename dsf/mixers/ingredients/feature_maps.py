"""Feature maps of linear attention, and finite-dimensional approximations of ``exp(q.k)``."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement

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
    return torch.where(x >= 0, x + 1, x.clamp(max=0).exp())


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


@dataclass(frozen=True)
class Monomials:
    """All products of at most ``order`` entries: the exponential series, truncated.

    ``φ(q).φ(k) = Σ_{p <= order} (q.k)^p / p!``: the products ``x^a / sqrt(a!)`` for every exponent
    vector a with entries that sum to at most ``order``. For even orders that is above zero for all
    q and k; for odd orders it may be zero or below.

    Raises:
        ValueError: if ``order`` is negative.

    Source: the expansion of softmax attention in Sieber et al. 2024, arXiv:2405.15731.

    Example:
        >>> import torch
        >>> q, k = torch.tensor([1.0, 0.5]), torch.tensor([0.4, -1.0])
        >>> features = Monomials(order=2)
        >>> features(q) @ features(k), 1 + q @ k + (q @ k) ** 2 / 2
        (tensor(0.9050), tensor(0.9050))
        >>> features(q).shape, features.width(2)
        (torch.Size([6]), 6)
    """

    order: int

    def __post_init__(self) -> None:
        _check_order(self.order)

    def __call__(self, x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes features"]:
        """The features of ``x`` by degree: a constant one, ``x`` itself, then products."""
        levels = [torch.ones_like(x[..., :1])]
        positions: dict[tuple[int, ...], int] = {(): 0}
        for degree in range(1, self.order + 1):
            chosen = list(combinations_with_replacement(range(x.shape[-1]), degree))
            shorter = torch.tensor([positions[entries[:-1]] for entries in chosen], device=x.device)
            last = torch.tensor([entries[-1] for entries in chosen], device=x.device)
            repeats = [entries.count(entries[-1]) for entries in chosen]
            factor = torch.tensor(repeats, dtype=x.dtype, device=x.device).rsqrt()
            levels.append(levels[-1][..., shorter] * x[..., last] * factor)
            positions = {entries: position for position, entries in enumerate(chosen)}
        return torch.cat(levels, dim=-1)

    def width(self, key_size: int) -> int:
        """The number of features of vectors with ``key_size`` entries."""
        return math.comb(key_size + self.order, self.order)


def monomials(order: int) -> Monomials:
    """A feature map with ``φ(q).φ(k)`` the exponential series up to ``order``."""
    return Monomials(order)


def series_error(x: Float[Tensor, "*axes"], order: int) -> Float[Tensor, "*axes"]:
    """An upper bound on the error of the exponential series up to ``order`` at ``x``.

    ``|x|^(order + 1) / (order + 1)! e^|x|``, by Taylor's theorem. It bounds the series, not the
    rounding of its evaluation.

    Raises:
        ValueError: if ``order`` is negative.
    """
    _check_order(order)
    size = x.abs()
    power = torch.special.xlogy(order + 1, size) - math.lgamma(order + 2)
    return (power + size).exp()


def random_features(rng: torch.Generator, *, key_size: int, width: int) -> FeatureMap:
    """A feature map for ``exp(q.k)``: ``exp(ω.x - |x|^2 / 2) / sqrt(m)``, all above zero.

    The m = ``width`` directions ω are standard normal, drawn from ``rng``. ``φ(q).φ(k)`` is
    ``exp(q.k)`` on average, with variance ``exp(2 q.k) (exp(|q + k|^2) - 1) / m``.

    Source: Choromanski et al. 2020, arXiv:2009.14794.

    Raises:
        ValueError: if a size is below 1.

    Example:
        >>> import torch
        >>> features = random_features(torch.Generator().manual_seed(0), key_size=2, width=4096)
        >>> q, k = torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0])
        >>> abs(features(q) @ features(k) - 1.649) < 0.2
        tensor(True)
    """
    if key_size < 1 or width < 1:
        raise ValueError(
            f"random_features: key_size and width must be at least 1, but they are {key_size} and "
            f"{width}."
        )
    directions = torch.randn(width, key_size, generator=rng, dtype=torch.float64, device=rng.device)

    def features(x: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes features"]:
        half_square = x.square().sum(dim=-1, keepdim=True) / 2
        return (x @ directions.to(x).mT - half_square).exp() / width**0.5

    return features


def _check_order(order: int) -> None:
    if order < 0:
        raise ValueError(
            f"an exponential series needs an order of at least 0, but the order is {order}."
        )
