"""Stored floats as fractions and integers, and exact linear algebra on them."""

from fractions import Fraction
from importlib.util import find_spec
from math import gcd, isqrt

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

    One unknown is set to one and the others are solved from independent rows: by python-flint where
    it is installed, else by lifting a solution modulo a prime to powers of it (Dixon 1982). It is
    returned only if it is exactly orthogonal to every row, so the result does not depend on the
    prime.
    """
    width = len(rows[0])
    basis = _eliminated(rows, width, PRIME)
    if len(basis) == width:
        return None
    leads = [lead for _, lead, _ in basis]
    free = next(column for column in range(width) if column not in set(leads))
    matrix = [[rows[index][lead] for lead in leads] for index, _, _ in basis]
    target = [-rows[index][free] for index, _, _ in basis]
    solved = _solved_by_flint if find_spec("flint") is not None else solved_by_lifting
    found = solved(matrix, target) if matrix else ([], 1)
    if found is None:
        return None
    direction = [0] * width
    direction[free] = found[1]
    for lead, part in zip(leads, found[0], strict=True):
        direction[lead] = part
    common = gcd(*direction)
    direction = [part // common for part in direction]
    fits = all(sum(map(int.__mul__, row, direction)) == 0 for row in rows)
    return direction if fits else None


Solution = tuple[list[int], int]


def _solved_by_flint(matrix: list[list[int]], target: list[int]) -> Solution:
    from flint import fmpz_mat

    size = len(target)
    left = fmpz_mat(size, size, [value for row in matrix for value in row])
    found = left.solve(fmpz_mat(size, 1, target)).numer_denom()
    return [int(part) for part in found[0].entries()], int(found[1])


def solved_by_lifting(matrix: list[list[int]], target: list[int]) -> Solution | None:
    """x and d with ``matrix x = d target`` for a matrix that is invertible modulo the prime."""
    size = len(target)
    inverse = _inverse(matrix)
    # by Hadamard's bound and Cramer's rule no term of a solution is longer than this
    sizes = (sum(v * v for v in [*row, b]) for row, b in zip(matrix, target, strict=True))
    bits = sum(size.bit_length() // 2 + 1 for size in sizes)
    power, rest, digits = 1, list(target), [0] * size
    while power.bit_length() < 2 * bits + 2:
        digit = [sum(map(int.__mul__, row, rest)) % PRIME for row in inverse]
        digits = [total + power * part for total, part in zip(digits, digit, strict=True)]
        rest = [
            (value - sum(map(int.__mul__, row, digit))) // PRIME
            for row, value in zip(matrix, rest, strict=True)
        ]
        power *= PRIME
    return _read_back(digits, power)


def _inverse(matrix: list[list[int]]) -> list[list[int]]:
    """The inverse modulo the prime, by elimination."""
    size = len(matrix)
    rows = [
        [value % PRIME for value in row] + [int(k == i) for k in range(size)]
        for i, row in enumerate(matrix)
    ]
    for column in range(size):
        pivot = next(k for k in range(column, size) if rows[k][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = pow(rows[column][column], -1, PRIME)
        lead = rows[column] = [value * scale % PRIME for value in rows[column]]
        for k, row in enumerate(rows):
            factor = row[column]
            if factor and k != column:
                rows[k] = [(a - factor * b) % PRIME for a, b in zip(row, lead, strict=True)]
    return [row[size:] for row in rows]


def _read_back(residues: list[int], modulus: int) -> Solution | None:
    """Fractions over one common denominator, reconstructed from residues."""
    limit, denominator = isqrt(modulus // 2), 1
    for residue in residues:
        (a, s), (b, t) = (modulus, 0), (residue * denominator % modulus, 1)
        while b > limit:
            (a, s), (b, t) = (b, t), (a % b, s - a // b * t)
        denominator *= abs(t)
        if not 0 < denominator <= limit:
            return None
    half = modulus // 2
    numerators = [(part * denominator + half) % modulus - half for part in residues]
    return numerators, denominator


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
