"""The number of singular values above a threshold, without a singular value decomposition.

One factorisation M = P L U applies the inverse to many columns cheaply, and the largest singular
values of the inverse are the reciprocals of the smallest of M. They are bounded from below by a
block Krylov space, and from above by how well such a space holds them if it begins with random
columns. Where the bounds leave the number open, the decomposition decides.

Source: Halko, Martinsson & Tropp 2011, arXiv:0909.4061, for the random columns.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

SMALL = 128
"""Of smaller matrices all singular values are computed, which takes no longer."""
WIDTH = 16
"""Columns of a block; a wider one is taken where more singular values lie below the threshold."""
SPARE = 6
"""So many columns a block has more than the values that it has to find."""
STEPS = 16
"""Blocks of a space at most: their polynomials tell values apart that differ by 5 %."""
EARLY = 2
"""So many blocks more the largest singular value gets, until its bounds differ by ``CLOSE``."""
CLOSE = 1.03
DOUBT = 1e-12
"""The probability with which the random columns may be so bad that a bound from above fails."""
SPREAD = 1e6
"""How far apart two values may lie, so that the square of the smaller keeps its digits."""

Apply = Callable[[Tensor], Tensor]


def numerical_rank(matrix: Shaped[Tensor, "rows columns"], tolerance: float) -> int:
    """How many singular values are above ``tolerance`` times the largest."""
    missing = None
    if min(matrix.shape) >= SMALL and not matrix.is_complex():
        missing = _missing(_square(matrix), tolerance)
    if missing is not None:
        return min(matrix.shape) - missing
    values = torch.linalg.svdvals(matrix)
    return int((values > tolerance * values[0]).sum())


def _square(matrix: Tensor) -> Tensor:
    """A square matrix with the same singular values, its largest entry 1."""
    rows, columns = matrix.shape
    if rows != columns:
        matrix = torch.linalg.qr(matrix if rows > columns else matrix.mT, mode="r").R
    return matrix / torch.linalg.vector_norm(matrix, ord=math.inf)


def _missing(matrix: Tensor, tolerance: float) -> int | None:
    """How many singular values of a square matrix are not above; None where that stays open."""
    factors, pivots, failed = torch.linalg.lu_factor_ex(matrix)
    growth = float(torch.linalg.vector_norm(factors, ord=math.inf))
    if bool(failed) or not math.isfinite(growth):
        return None
    rounded = len(matrix) * torch.finfo(matrix.dtype).eps * growth
    largest = Space(matrix.matmul, matrix.mT.matmul, matrix, SPARE)
    energy = float(torch.linalg.matrix_norm(matrix)) ** 2

    def inverse(columns: Tensor) -> Tensor:
        return torch.linalg.lu_solve(factors, pivots, columns)

    def adjoint(columns: Tensor) -> Tensor:
        return torch.linalg.lu_solve(factors, pivots, columns, adjoint=True)

    smallest = Space(inverse, adjoint, matrix, WIDTH)
    while smallest.steps < min(STEPS, len(matrix) // (2 * smallest.width)):
        smallest.extend()
        while largest.steps < EARLY * smallest.steps and largest.factor(1) > CLOSE:
            largest.extend()
        least = float(largest.values[0])
        outside = max(energy - float(largest.values.square().sum()), 0.0)
        most = min(math.hypot(least, math.sqrt(outside)), largest.factor(1) * least)
        found = int((smallest.values * (tolerance - rounded) * least >= 1).sum())
        if found + SPARE > smallest.width:
            if (width := 2 * (found + SPARE)) > len(matrix) // 4:
                return None
            smallest = Space(inverse, adjoint, matrix, width)
            continue
        following = float(smallest.values[found])
        if not float(smallest.values[0]) <= SPREAD * following:  # NaN too
            return None
        if smallest.factor(found + 1) * following * (tolerance + rounded) * most < 1:
            return found
    return None


class Space:
    """A space that holds the largest singular values of a matrix B which is only applied.

    It is spanned by Ω, T Ω, ..., Tᵈ Ω with T = BᵀB and random Ω, so it holds φ(T) Ω for every
    polynomial φ of degree d. Of Chebyshev's, small on all of [0, λ / (1 + ε)], this says how far
    the values in the space can lie below those of B.

    Attributes:
        values: the singular values of B within the space, largest first; none exceeds that of B.
        steps: how many blocks the space has, d + 1.
        width: how many columns a block has.
    """

    def __init__(self, apply: Apply, adjoint: Apply, like: Tensor, width: int) -> None:
        self.apply, self.adjoint = apply, adjoint
        self.size, self.width, self.steps = len(like), width, 0
        rng = torch.Generator().manual_seed(0)
        drawn = torch.randn(self.size, width, generator=rng)
        self._next = drawn.to(dtype=like.dtype, device=like.device)
        self._basis, self._images = like[:, :0], like[:, :0]
        self._squared, self.values = like[:0, :0], like[0, :0]

    def extend(self) -> None:
        """Add a block to the space."""
        block = self._next
        for _ in range(2):  # once more, for what the first time leaves by rounding
            block = torch.linalg.qr(block - self._basis @ (self._basis.mT @ block)).Q
        image = self.apply(block)
        across = self._images.mT @ image
        upper = torch.cat([self._squared, across], dim=-1)
        self._squared = torch.cat([upper, torch.cat([across.mT, image.mT @ image], dim=-1)])
        self._basis = torch.cat([self._basis, block], dim=-1)
        self._images = torch.cat([self._images, image], dim=-1)
        self._next = self.adjoint(torch.linalg.qr(image).Q)
        self.values = self._values()
        self.steps += 1

    def _values(self) -> Tensor:
        if not bool(self._squared.isfinite().all()):
            return torch.full_like(self._squared[0], math.nan)
        return torch.linalg.eigvalsh(self._squared).clamp(min=0).sqrt().flip(-1)

    def factor(self, place: int) -> float:
        """The singular value at ``place`` (counted from 1) is at most that in the space times this.

        But for the probability ``DOUBT``.
        """
        spare, tail = self.width - place + 1, math.sqrt(-2 * math.log(DOUBT))
        drawn = math.sqrt(self.size) + math.sqrt(self.width) + tail
        inverted = math.e * math.sqrt(self.width) / spare * DOUBT ** (-1 / spare)
        bounds = [
            (1 + gap) * (1 + (drawn * inverted / _chebyshev(self.steps - 1, 1 + 2 * gap)) ** 2)
            for gap in GAPS
        ]
        return math.sqrt(min(bounds))


GAPS = tuple(0.005 * 1.25**power for power in range(36))


def _chebyshev(degree: int, at: float) -> float:
    return math.cosh(degree * math.acosh(at))
