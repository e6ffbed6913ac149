"""Stored floats as integers, and exact elimination on them."""

from fractions import Fraction
from math import gcd

from torch import Tensor

PRIME = (1 << 61) - 1


def fractions_of(row: Tensor) -> list[Fraction]:
    """The numbers of a vector as the fractions they store."""
    return [Fraction(*value.as_integer_ratio()) for value in row.double().tolist()]


def integer_row(row: Tensor, extra: tuple[int, ...] = ()) -> list[int]:
    """A vector, and ``extra`` behind it, over a common power of two."""
    parts = [value.as_integer_ratio() for value in row.double().tolist()]
    unit = max([below for _, below in parts], default=1)
    return [above * (unit // below) for above, below in parts] + [unit * value for value in extra]


def independent_rows(rows: list[list[int]], wanted: int) -> list[int]:
    """The first rows that are independent modulo a large prime, at most ``wanted``."""
    basis: list[tuple[int, list[int]]] = []
    chosen = []
    for index, row in enumerate(rows):
        rest = [value % PRIME for value in row]
        for lead, other in basis:
            if rest[lead]:
                factor = rest[lead]
                rest = [(a - factor * b) % PRIME for a, b in zip(rest, other, strict=True)]
        lead = next((k for k, value in enumerate(rest) if value), None)
        if lead is None:
            continue
        inverse = pow(rest[lead], -1, PRIME)
        basis.append((lead, [value * inverse % PRIME for value in rest]))
        chosen.append(index)
        if len(chosen) == wanted:
            break
    return chosen


def null_vector(rows: list[list[int]]) -> list[int] | None:
    """Integers, not all zero, that every row takes to zero; None if there are none.

    Fraction-free elimination: exact, and meant for small or nearly full rank.
    """
    width = len(rows[0])
    work = [list(row) for row in rows]
    pivots: list[int] = []
    for column in range(width):
        place = next((r for r in range(len(pivots), len(work)) if work[r][column]), None)
        if place is None:
            return _direction(work, pivots, column, width)
        work[len(pivots)], work[place] = work[place], work[len(pivots)]
        lead = work[len(pivots)]
        for row in range(len(work)):
            if row != len(pivots) and work[row][column]:
                a, b = lead[column], work[row][column]
                mixed = [a * x - b * y for x, y in zip(work[row], lead, strict=True)]
                common = gcd(*mixed) or 1
                work[row] = [value // common for value in mixed]
        pivots.append(column)
    return None


def _direction(work: list[list[int]], pivots: list[int], free: int, width: int) -> list[int]:
    """Set the free unknown to one and read the pivots off the reduced rows."""
    solution = [Fraction(0)] * width
    solution[free] = Fraction(1)
    for row, column in enumerate(pivots):
        solution[column] = Fraction(-work[row][free], work[row][column])
    scale = 1
    for part in solution:
        scale = scale * part.denominator // gcd(scale, part.denominator)
    return [int(part * scale) for part in solution]
