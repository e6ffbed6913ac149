"""The number of singular values above a threshold, without a singular value decomposition.

One factorisation M = P L U applies the inverse to many columns cheaply, and the largest singular
values of the inverse are the reciprocals of the smallest of M. Where all are above, the image of a
few random columns shows it. Elsewhere they are bounded from below by a block Krylov space, and from
above by how well such a space holds them if it begins with random columns. Where the bounds leave
the number open, the decomposition decides.

Source: Halko, Martinsson & Tropp 2011, arXiv:0909.4061, for the random columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dsf.runtime.threads import each_in_parallel

SMALL = 128
"""Of smaller matrices all singular values are computed, which takes no longer."""
WIDTH = 16
"""Columns of a block; a wider one is taken where more singular values lie below the threshold."""
SPARE = 6
"""Columns of a block beyond the number of values that it has to find."""
STEPS = 16
"""Blocks of a space at most: their polynomials tell values apart that differ by 5 %."""
EARLY = 2
"""So many blocks more the largest singular value gets, until its bounds differ by ``CLOSE``."""
CLOSE = 1.03
DOUBT = 1e-12
"""The probability with which the random columns may be so bad that a bound from above fails."""
SPREAD = 1e6
"""Maximum ratio of two values for which the square of the smaller keeps its digits."""
TOGETHER = 1 << 21
"""Numbers of matrices that are factorised at once: memory of that size is not asked for anew."""
NEAR_ONE = 1e6
"""Matrices are scaled whose largest entry is farther from one than by this factor."""
POWERS = 2
"""How often at most the image of random columns is taken where all values may be above."""
SHORTEST = math.sqrt(2) * (DOUBT * math.gamma(WIDTH / 2 + 1)) ** (1 / WIDTH)
"""But for the probability ``DOUBT``, ``WIDTH`` normal numbers have at least this length."""

Apply = Callable[[Tensor], Tensor]


def numerical_rank(matrix: Shaped[Tensor, "rows columns"], tolerance: float) -> int:
    """How many singular values are above ``tolerance`` times the largest."""
    return int(numerical_ranks(matrix, tolerance))


def numerical_ranks(
    matrices: Shaped[Tensor, "*batch rows columns"], tolerance: float
) -> Int[Tensor, "*batch"]:
    """The same for every matrix of a batch: each is factorised alone, several on more threads."""
    batch, size = matrices.shape[:-2], min(matrices.shape[-2:])
    flat = matrices.detach().reshape(-1, *matrices.shape[-2:])
    if size < SMALL or matrices.is_complex():
        found = [_decomposed(each, tolerance) for each in flat]
    else:
        parts = flat.split(together(size))
        found = [rank for part in parts for rank in _factorised(part, tolerance)]
    return torch.tensor(found, dtype=torch.int64, device=matrices.device).view(batch)


def together(size: int) -> int:
    """How many square matrices of a size are factorised at once."""
    return max(torch.get_num_threads(), TOGETHER // size**2)


def _decomposed(matrix: Tensor, tolerance: float) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > tolerance * values[0]).sum())


def _factorised(matrices: Tensor, tolerance: float) -> list[int]:
    square, largest = _square(matrices)
    drawn = _drawn(square.shape[-1], WIDTH, like=square)

    def rank(number: int) -> int:
        missing = _missing(square[number], float(largest[number]), drawn, tolerance)
        if missing is None:
            return _decomposed(matrices[number], tolerance)
        return square.shape[-1] - missing

    return list(each_in_parallel(rank, range(len(square))))


def _missing(matrix: Tensor, largest: float, drawn: Tensor, tolerance: float) -> int | None:
    """How many singular values of a square matrix are not above; None where that stays open."""
    factors, pivots, failed = torch.linalg.lu_factor_ex(matrix)
    growth = float(_largest(factors))
    if bool(failed) or not math.isfinite(growth):
        return None
    rounded = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * growth / largest
    inverse = _Inverse(factors, pivots)
    if _all_above(matrix, inverse, drawn, tolerance + rounded):
        return 0
    return _counted(matrix, inverse, rounded, tolerance)


@dataclass(frozen=True)
class _Inverse:
    """The inverse of a matrix, by its factors."""

    factors: Float[Tensor, "size size"]
    pivots: Int[Tensor, " size"]

    def apply(self, columns: Float[Tensor, "size columns"]) -> Float[Tensor, "size columns"]:
        """The inverse times some columns."""
        return torch.linalg.lu_solve(self.factors, self.pivots, columns)

    def adjoint(self, columns: Float[Tensor, "size columns"]) -> Float[Tensor, "size columns"]:
        """The transpose of the inverse times some columns."""
        return torch.linalg.lu_solve(self.factors, self.pivots, columns, adjoint=True)


def _square(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Square matrices with the same singular values but for a factor, and their largest entries.

    They lie column by column, as the factorisation needs them. Only those of entries so large or so
    small that powers of them leave the range of numbers are scaled, since that takes a copy.
    """
    rows, columns = matrices.shape[-2:]
    if rows != columns:
        tall = matrices if rows > columns else matrices.mT
        matrices = torch.linalg.qr(tall, mode="r").R
    largest = _largest(matrices)
    if not bool(((largest > 1 / NEAR_ONE) & (largest < NEAR_ONE)).all()):
        matrices, largest = matrices / largest[..., None, None], torch.ones_like(largest)
    return matrices.mT if matrices.is_contiguous() else matrices, largest


def _largest(matrices: Tensor) -> Tensor:
    axes = (-2, -1)
    return torch.maximum(matrices.amax(dim=axes), -matrices.amin(dim=axes))


def _all_above(
    matrix: Float[Tensor, "size size"],
    inverse: _Inverse,
    drawn: Float[Tensor, "size columns"],
    tolerance: float,
) -> bool:
    """Whether all singular values are above, as far as a few solutions show it.

    With B the inverse and random columns Ω, ``|B (BᵀB)ᵠ Ω|`` is at least ``|B|²ᵠ⁺¹`` times the
    length of as many normal numbers as Ω has columns.
    """
    largest, images = float(torch.linalg.matrix_norm(matrix)), drawn
    for power in range(POWERS):
        images = inverse.apply(inverse.adjoint(images) if power else images)
        length = float(torch.linalg.matrix_norm(images)) / SHORTEST
        if length ** (1 / (2 * power + 1)) * tolerance * largest < 1:
            return True
    return False


def _counted(matrix: Tensor, inverse: _Inverse, rounded: float, tolerance: float) -> int | None:
    """The same by bounds from both sides."""
    largest = Space(matrix.matmul, matrix.mT.matmul, matrix, SPARE)
    most = size = float(torch.linalg.matrix_norm(matrix))
    least = float(torch.linalg.vector_norm(matrix, dim=0).max())

    smallest = Space(inverse.apply, inverse.adjoint, matrix, WIDTH)
    while smallest.steps < min(STEPS, len(matrix) // (2 * smallest.width)):
        smallest.extend()
        while True:
            found = int((smallest.values * (tolerance - rounded) * least >= 1).sum())
            if found + SPARE > smallest.width:
                break
            following, factor = float(smallest.values[found]), smallest.factor(found + 1)
            if factor * following * (tolerance + rounded) * most < 1:
                is_told = float(smallest.values[0]) <= SPREAD * following  # not of NaN
                return found if is_told else None
            is_close = most <= max(CLOSE, factor) * least
            if is_close or largest.steps >= EARLY * smallest.steps:
                break
            largest.extend()
            inside = float(largest.values[0])
            outside = max(size**2 - float(largest.values.square().sum()), 0.0)
            least = max(least, inside)
            most = min(most, math.hypot(inside, math.sqrt(outside)), largest.factor(1) * inside)
        if found + SPARE > smallest.width:
            if (width := 2 * (found + SPARE)) > len(matrix) // 4:
                return None
            smallest = Space(inverse.apply, inverse.adjoint, matrix, width)
            continue
        if not float(smallest.values[0]) <= SPREAD * float(smallest.values[found]):  # NaN too
            return None
    return None


def _drawn(size: int, width: int, *, like: Tensor) -> Tensor:
    """Normal numbers of the type and on the device of a tensor, always the same."""
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(size, width, generator=rng)
    return drawn.to(dtype=like.dtype, device=like.device)


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
        self._last = like[:, :0]
        self._basis, self._images = like[:, :0], like[:, :0]
        self._squared, self.values = like[:0, :0], like[0, :0]

    def extend(self) -> None:
        """Add a block to the space."""
        block = self._next()
        for _ in range(2):  # once more, for what the first time leaves by rounding
            block = torch.linalg.qr(block - self._basis @ (self._basis.mT @ block)).Q
        image = self.apply(block)
        across = self._images.mT @ image
        upper = torch.cat([self._squared, across], dim=-1)
        self._squared = torch.cat([upper, torch.cat([across.mT, image.mT @ image], dim=-1)])
        self._basis = torch.cat([self._basis, block], dim=-1)
        self._images = torch.cat([self._images, image], dim=-1)
        self._last = image
        self.values = self._values()
        self.steps += 1

    def _next(self) -> Tensor:
        if self.steps == 0:
            return _drawn(self.size, self.width, like=self._last)
        return self.adjoint(torch.linalg.qr(self._last).Q)

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
        kept = drawn * inverted / np.cosh((self.steps - 1) * ANGLES)
        return math.sqrt(float(((1 + GAPS) * (1 + kept**2)).min()))


GAPS = 0.005 * 1.25 ** np.arange(36)
ANGLES = np.arccosh(1 + 2 * GAPS)  # Chebyshev's polynomial of degree d is cosh(d angle)
