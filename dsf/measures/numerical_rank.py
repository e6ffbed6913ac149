"""The number of singular values above a threshold, mostly without computing them.

One factorisation M = P L U applies the inverse to many columns cheaply, and the largest singular
values of the inverse are the reciprocals of the smallest of M. Where all are above, the image of a
few random columns shows it; elsewhere the singular values are computed.

Source: Halko, Martinsson & Tropp 2011, arXiv:0909.4061, for the random columns.
"""

import math

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.runtime.threads import each_in_parallel

SMALL = 128
"""Of smaller matrices all singular values are computed, which takes no longer."""
WIDTH = 16
"""Random columns."""
DOUBT = 1e-12
"""The probability with which the random columns may be so bad that a bound from above fails."""
TOGETHER = 1 << 21
"""Numbers of matrices that are factorised at once: memory of that size is not asked for anew."""
NEAR_ONE = 1e6
"""Matrices are scaled whose largest entry is farther from one than by this factor."""
POWERS = 2
"""How often at most the image of random columns is taken where all values may be above."""
SHORTEST = math.sqrt(2) * (DOUBT * math.gamma(WIDTH / 2 + 1)) ** (1 / WIDTH)
"""But for the probability ``DOUBT``, ``WIDTH`` normal numbers have at least this length."""


def numerical_ranks(
    matrices: Shaped[Tensor, "*batch rows columns"], tolerance: float
) -> Int[Tensor, "*batch"]:
    """How many singular values of each matrix are above ``tolerance`` times the largest.

    Only in double precision: rounding of the factors in single precision hides small values.
    """
    batch, size = matrices.shape[:-2], min(matrices.shape[-2:])
    flat = matrices.detach().reshape(-1, *matrices.shape[-2:])
    if size < SMALL or matrices.dtype is not torch.float64:
        found = [_decomposed(each, tolerance) for each in flat]
    else:
        parts = flat.split(together(size))
        found = [rank for part in parts for rank in _factorised(part, tolerance)]
    return torch.tensor(found, dtype=torch.int64, device=matrices.device).view(batch)


def together(size: int) -> int:
    return max(torch.get_num_threads(), TOGETHER // size**2)


def _decomposed(matrix: Tensor, tolerance: float) -> int:
    values = torch.linalg.svdvals(matrix)
    return int((values > tolerance * values[0]).sum())


def _factorised(matrices: Tensor, tolerance: float) -> list[int]:
    square, largest = _square(matrices)
    rng = torch.Generator().manual_seed(0)
    drawn = torch.randn(square.shape[-1], WIDTH, generator=rng).to(square)

    def rank(number: int) -> int:
        if _is_full(square[number], float(largest[number]), drawn, tolerance):
            return square.shape[-1]
        return _decomposed(matrices[number], tolerance)

    return list(each_in_parallel(rank, range(len(square))))


def _is_full(matrix: Tensor, largest: float, drawn: Tensor, tolerance: float) -> bool:
    """Whether all singular values of a square matrix are above, as far as its factors show it."""
    factors, pivots, failed = torch.linalg.lu_factor_ex(matrix)
    growth = float(_largest(factors))
    if bool(failed) or not math.isfinite(growth):
        return False
    rounded = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * growth / largest
    # With B the inverse and random columns Ω, |B (BᵀB)ᵠ Ω| is at least |B|²ᵠ⁺¹ times the length of
    # as many normal numbers as Ω has columns.
    size, images = float(torch.linalg.matrix_norm(matrix)), drawn
    for power in range(POWERS):
        for adjoint in (True, False) if power else (False,):
            images = torch.linalg.lu_solve(factors, pivots, images, adjoint=adjoint)
        length = float(torch.linalg.matrix_norm(images)) / SHORTEST
        if length ** (1 / (2 * power + 1)) * (tolerance + rounded) * size < 1:
            return True
    return False


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
