"""Stored floats as fractions and integers, and exact linear algebra on them."""

from fractions import Fraction
from importlib.util import find_spec
from math import isqrt, lcm

from torch import Tensor

PRIME = (1 << 61) - 1
LARGER_PRIME = (1 << 521) - 1


def fractions_of(row: Tensor) -> list[Fraction]:
    """The numbers of a vector as the fractions they store."""
    return [Fraction(*value.as_integer_ratio()) for value in row.double().tolist()]


def integer_row(row: Tensor, extra: tuple[int, ...] = ()) -> list[int]:
    """A vector followed by ``extra``, as integers over a common power of two."""
    parts = [value.as_integer_ratio() for value in row.double().tolist()]
    unit = max([below for _, below in parts], default=1)
    return [above * (unit // below) for above, below in parts] + [unit * value for value in extra]


def independent_rows(rows: list[list[int]], wanted: int, prime: int = PRIME) -> list[int]:
    """Indices of the first rows that are independent modulo a prime, at most ``wanted``.

    Computed by python-flint where it is installed (the extra ``proof``) and the prime is small
    enough for it, else in Python.
    """
    if prime == PRIME and find_spec("flint") is not None:
        return _pivots(rows)[:wanted]
    return [index for index, _, _ in _eliminated(rows, wanted, prime)]


def _pivots(rows: list[list[int]]) -> list[int]:
    """Rows that are independent of the ones before: pivots of the transposed echelon form."""
    from flint import nmod_mat

    entries = [value % PRIME for column in zip(*rows, strict=True) for value in column]
    echelon, rank = nmod_mat(len(rows[0]), len(rows), entries, PRIME).rref()
    found, column = [], 0
    for row in range(rank):
        while int(echelon[row, column]) == 0:
            column += 1
        found.append(column)
    return found


def null_vector(rows: list[list[int]]) -> list[int] | None:
    """A non-zero integer vector that is orthogonal to every row; None if none was found.

    Solved modulo larger and larger Mersenne primes, reconstructed as fractions, and returned only
    if it is exactly orthogonal to every row, so the result does not depend on the primes.
    """
    width = len(rows[0])
    for bits in (61, 521, 2203, 9941):
        prime = (1 << bits) - 1
        basis = _eliminated(rows, width, prime)
        if len(basis) == width:
            return None
        found = _read_back(_direction(basis, width, prime), prime)
        if found and all(sum(map(int.__mul__, row, found)) == 0 for row in rows):
            return found
    return None


def _eliminated(rows: list[list[int]], wanted: int, prime: int) -> list[tuple[int, int, list[int]]]:
    """(index, leading column, reduced row) of the first rows independent modulo ``prime``."""
    basis: list[tuple[int, int, list[int]]] = []
    for index, row in enumerate(rows):
        rest = [value % prime for value in row]
        for _, lead, other in basis:
            factor = rest[lead]
            if factor:
                rest = [(a - factor * b) % prime for a, b in zip(rest, other, strict=True)]
        first = next((column for column, value in enumerate(rest) if value), -1)
        if first < 0:
            continue
        inverse = pow(rest[first], -1, prime)
        basis.append((index, first, [value * inverse % prime for value in rest]))
        if len(basis) == wanted:
            break
    return basis


def _direction(basis: list[tuple[int, int, list[int]]], width: int, prime: int) -> list[int]:
    """A solution with one free unknown set to one, by back substitution."""
    leads = {lead for _, lead, _ in basis}
    solution = [0] * width
    solution[next(column for column in range(width) if column not in leads)] = 1
    for _, lead, row in reversed(basis):
        others = sum(a * x for k, (a, x) in enumerate(zip(row, solution, strict=True)) if k != lead)
        solution[lead] = -others % prime
    return solution


def _read_back(solution: list[int], prime: int) -> list[int] | None:
    """Fractions with small terms reconstructed from residues, over a common denominator."""
    limit = isqrt(prime // 2)
    parts = []
    for residue in solution:
        (a, s), (b, t) = (prime, 0), (residue, 1)
        while b > limit:
            (a, s), (b, t) = (b, t), (a % b, s - a // b * t)
        if t == 0 or abs(t) > limit:
            return None
        parts.append(Fraction(b, t))
    scale = lcm(*(part.denominator for part in parts))
    return [int(part * scale) for part in parts]
