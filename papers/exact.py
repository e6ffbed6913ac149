"""Exact ranks of stored matrices: whole numbers, eliminated modulo a prime.

A rank modulo a prime is at most the rank, so full rank modulo the prime is full rank.
"""

from collections.abc import Sequence

from torch import Tensor

PRIME = (1 << 61) - 1


def whole(row: Tensor) -> list[int]:
    """Return a stored vector times the power of two that makes its entries whole numbers."""
    parts = [value.as_integer_ratio() for value in row.double().tolist()]
    unit = max(below for _, below in parts)
    return [above * (unit // below) for above, below in parts]


def rank(rows: Sequence[Sequence[int]]) -> int:
    """Return the rank modulo :data:`PRIME` of a matrix of whole numbers."""
    left = [[value % PRIME for value in row] for row in rows]
    found = 0
    for column in range(len(left[0])):
        pivot = next((row for row in left[found:] if row[column]), None)
        if pivot is None:
            continue
        left.remove(pivot)
        left.insert(found, pivot)
        inverse = pow(pivot[column], -1, PRIME)
        for row in left[found + 1 :]:
            factor = row[column] * inverse % PRIME
            if factor:
                row[column:] = [
                    (a - factor * b) % PRIME
                    for a, b in zip(row[column:], pivot[column:], strict=True)
                ]
        found += 1
    return found
