"""Rows of the map of a system without any rounding: long integers over powers of two.

For small systems whose coefficients are stored numbers, where a bound on rounding says nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor

from dsf.systems.system import System
from dsf.systems.transition import Dense, Diagonal, DiagonalPlusLowRank, Kronecker, ScaledIdentity

LARGEST_WORK = 1 << 20
"""Products of long integers, a few microseconds each."""
STORED = (Dense, Diagonal, DiagonalPlusLowRank, Kronecker, ScaledIdentity)


@dataclass(frozen=True)
class Whole:
    """A matrix of integers over 2^``places``."""

    rows: list[list[int]]
    places: int

    def __matmul__(self, other: "Whole") -> "Whole":
        columns = list(zip(*other.rows, strict=True))
        rows = [[sum(map(int.__mul__, row, column)) for column in columns] for row in self.rows]
        return Whole(rows, self.places + other.places)

    def over(self, places: int) -> list[list[int]]:
        """The same over more places."""
        return [[value << (places - self.places) for value in row] for row in self.rows]

    def __add__(self, other: "Whole") -> "Whole":
        places = max(self.places, other.places)
        pairs = zip(self.over(places), other.over(places), strict=True)
        return Whole([list(map(int.__add__, a, b)) for a, b in pairs], places)

    def joined(self, other: "Whole") -> "Whole":
        """Return both matrices side by side."""
        places = max(self.places, other.places)
        pairs = zip(self.over(places), other.over(places), strict=True)
        return Whole([a + b for a, b in pairs], places)


def whole(part: Tensor) -> Whole:
    """A matrix of finite floats, exactly."""
    ratios = [[value.as_integer_ratio() for value in row] for row in part.double().tolist()]
    unit = max((below for row in ratios for _, below in row), default=1)
    rows = [[above * (unit // below) for above, below in row] for row in ratios]
    return Whole(rows, unit.bit_length() - 1)


def is_small(system: System) -> bool:
    """Whether the map of a system can be had exactly within a few seconds."""
    entries = 1
    for size in system.batch:
        entries *= size
    states, outputs = system.state_size, system.output_size
    columns = system.steps**2 * system.input_size
    work = entries * (columns * states * (states + outputs) + system.steps * states**3)
    parts = (system.B, system.C, system.feedthrough)
    return (
        work <= LARGEST_WORK
        and isinstance(system.A, STORED)
        and all(isinstance(part, Tensor) and bool(part.isfinite().all()) for part in parts)
        and not system.dtype.is_complex
        and not system.runs_backward
        and bool(system.A.dense().isfinite().all())
    )


def exact_rows(system: System, index: tuple[int, ...]) -> Iterator[Whole]:
    """The rows of every token, up to its own columns, of one entry of the batch."""
    parts = {"A": _transition(system), "B": system.B, "C": system.C, "D": system.feedthrough}
    plain = {
        name: torch.as_tensor(part).expand(*system.batch, system.steps, -1, -1)[index]
        for name, part in parts.items()
        if isinstance(part, Tensor)
    }
    update = None
    if isinstance(system.A, DiagonalPlusLowRank):
        size = (*system.batch, system.steps, -1, -1)
        update = [part.expand(size)[index] for part in (system.A.left, system.A.right)]
    state = Whole([[] for _ in range(system.state_size)], 0)
    for t in range(system.steps):
        A, B, C, D = (whole(plain[name][t]) for name in "ABCD")
        if update is not None:
            A = A + whole(update[0][t]) @ whole(update[1][t].mT)
        moved = (A @ state).joined(B) if t else B
        seen = C @ (state if system.reads_before_update else moved) if t else None
        if system.reads_before_update:
            yield D if seen is None else seen.joined(D)
        else:
            yield _with_own(C @ moved, D)
        state = moved


def _with_own(rows: Whole, D: Whole) -> Whole:
    """The feedthrough added to the last columns."""
    missing = len(rows.rows[0]) - len(D.rows[0])
    return rows + Whole([[0] * missing + row for row in D.rows], D.places)


def _transition(system: System) -> Tensor:
    """A_t without its update of low rank."""
    if isinstance(system.A, DiagonalPlusLowRank):
        return torch.diag_embed(system.A.decay)
    return system.A.dense()


def squared_distance(first: System, second: System, index: tuple[int, ...]) -> Fraction:
    """The sum of the squared differences of two maps of one shape."""
    found = Fraction(0)
    rows = zip(exact_rows(first, index), exact_rows(second, index), strict=True)
    for one, other in rows:
        places = max(one.places, other.places)
        pairs = zip(one.over(places), other.over(places), strict=True)
        total = sum((x - y) ** 2 for a, b in pairs for x, y in zip(a, b, strict=True))
        found += Fraction(total, 1 << 2 * places)
    return found


def entries_of(system: System) -> Iterator[tuple[int, ...]]:
    """The index of every entry of the batch."""
    return product(*map(range, system.batch))
