"""Exact linear algebra on integers."""

from fractions import Fraction
from importlib.util import find_spec
from math import gcd, inf
from typing import Any

import numpy as np

PRIME = (1 << 31) - 1
"""Products of two residues fit into 64 bits."""
LARGER_PRIME = (1 << 521) - 1


def as_float(value: Fraction) -> float:
    """Return the nearest float, infinite beyond the largest one."""
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def independent_rows(rows: list[list[int]], wanted: int, prime: int = PRIME) -> list[int]:
    """Return the indices of the first rows that are independent modulo a prime, at most ``wanted``.

    Rows that are independent modulo a prime are independent; the converse fails rarely.
    """
    return [index for index, _ in _eliminated(rows, wanted, prime)]


def _eliminated(rows: list[list[int]], wanted: int, prime: int) -> list[tuple[int, int]]:
    """Indices and leading columns of the first rows that are independent modulo ``prime``."""
    dtype = np.int64 if prime <= PRIME else object
    basis: list[tuple[int, int]] = []
    reduced: list[Any] = []
    for index, row in enumerate(rows):
        rest = np.array([value % prime for value in row], dtype=dtype)
        for (_, lead), other in zip(basis, reduced, strict=True):
            if rest[lead]:
                rest = (rest - rest[lead] * other) % prime
        leads = np.flatnonzero(rest)
        if len(leads):
            basis.append((index, int(leads[0])))
            reduced.append(rest * pow(int(rest[leads[0]]), -1, prime) % prime)
        if len(basis) == wanted:
            break
    return basis


def null_vector(rows: list[list[int]]) -> list[int] | None:
    """Return a non-zero integer vector that is orthogonal to every row, or None.

    One unknown is set to one and the others are solved from independent rows. The vector is
    returned only if it is exactly orthogonal to every row, so the result does not depend on the
    prime.
    """
    width = len(rows[0])
    basis = _eliminated(rows, width, PRIME)
    if len(basis) == width:
        return None
    leads = [lead for _, lead in basis]
    free = next(column for column in range(width) if column not in set(leads))
    matrix = [[rows[index][lead] for lead in leads] for index, _ in basis]
    target = [-rows[index][free] for index, _ in basis]
    numerators, denominator = _solved(matrix, target)
    direction = [0] * width
    direction[free] = denominator
    for lead, part in zip(leads, numerators, strict=True):
        direction[lead] = part
    common = gcd(*direction)
    direction = [part // common for part in direction]
    fits = all(sum(map(int.__mul__, row, direction)) == 0 for row in rows)
    return direction if fits else None


def _solved(matrix: list[list[int]], target: list[int]) -> tuple[list[int], int]:
    """Solve ``matrix x = d target`` for integers x and d; the matrix is invertible.

    By python-flint where it is installed (the extra ``proof``), which is faster for wide matrices,
    else by elimination without fractions (Bareiss 1968), whose divisions leave no remainder.
    """
    size = len(target)
    if size and find_spec("flint") is not None:
        from flint import fmpz_mat

        left = fmpz_mat(size, size, [value for row in matrix for value in row])
        found = left.solve(fmpz_mat(size, 1, target)).numer_denom()
        return [int(part) for part in found[0].entries()], int(found[1])
    rows = [[*row, value] for row, value in zip(matrix, target, strict=True)]
    last = 1
    for column in range(size):
        pivot = next(k for k in range(column, size) if rows[k][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column]
        for k, row in enumerate(rows):
            if k != column:
                factor = row[column]
                rows[k] = [
                    (lead[column] * a - factor * b) // last for a, b in zip(row, lead, strict=True)
                ]
        last = lead[column]
    return [row[-1] for row in rows], last
