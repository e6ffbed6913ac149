"""Rows of the map of a system without any rounding: long integers over powers of two.

For small systems whose coefficients are stored numbers, where a bound on rounding says nothing.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsf.systems.system import System
from dsf.systems.transition import Dense, Diagonal, DiagonalPlusLowRank, Kronecker, ScaledIdentity

LARGEST_WORK = 1 << 20
"""Products of long integers, a few microseconds each."""
STORED = (Dense, Diagonal, DiagonalPlusLowRank, Kronecker, ScaledIdentity)


class Whole(NamedTuple):
    """A matrix of integers, an array of objects, over 2^``places``."""

    numbers: np.ndarray
    places: int

    def over(self, places: int) -> np.ndarray:
        return self.numbers * (1 << (places - self.places))

    def __matmul__(self, other: "Whole") -> "Whole":
        return Whole(self.numbers @ other.numbers, self.places + other.places)

    def plus(self, other: "Whole") -> "Whole":
        places = max(self.places, other.places)
        return Whole(self.over(places) + other.over(places), places)

    def joined(self, other: "Whole") -> "Whole":
        places = max(self.places, other.places)
        return Whole(np.hstack([self.over(places), other.over(places)]), places)


def whole(part: Tensor) -> Whole:
    """A matrix of finite floats, exactly."""
    ratios = [value.as_integer_ratio() for value in part.double().flatten().tolist()]
    unit = max((below for _, below in ratios), default=1)
    numbers = np.array([above * (unit // below) for above, below in ratios], dtype=object)
    return Whole(numbers.reshape(part.shape), unit.bit_length() - 1)


def is_small(system: System) -> bool:
    """Whether the map of a system can be had exactly within a few seconds."""
    entries = system.batch.numel()
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
    low_rank = isinstance(system.A, DiagonalPlusLowRank)
    own = torch.diag_embed(system.A.decays()) if low_rank else system.A.dense()
    parts = {"A": own, "B": system.B, "C": system.C, "D": system.feedthrough}
    plain = {
        name: torch.as_tensor(part).expand(*system.batch, system.steps, -1, -1)[index]
        for name, part in parts.items()
        if isinstance(part, Tensor)
    }
    update = None
    if isinstance(system.A, DiagonalPlusLowRank):
        size = (*system.batch, system.steps, -1, -1)
        update = [part.expand(size)[index] for part in (system.A.left, system.A.right)]
    state = Whole(np.zeros((system.state_size, 0), dtype=object), 0)
    for t in range(system.steps):
        A, B, C, D = (whole(plain[name][t]) for name in "ABCD")
        if update is not None:
            A = A.plus(whole(update[0][t]) @ whole(update[1][t].mT))
        moved = (A @ state).joined(B) if t else B
        seen = C @ (state if system.reads_before_update else moved) if t else None
        if system.reads_before_update:
            yield D if seen is None else seen.joined(D)
        else:
            rows = C @ moved
            missing = rows.numbers.shape[1] - D.numbers.shape[1]
            before = Whole(np.zeros((len(D.numbers), missing), dtype=object), 0)
            yield rows.plus(before.joined(D))
        state = moved


def squared_distance(first: System, second: System, index: tuple[int, ...]) -> Fraction:
    found = Fraction(0)
    rows = zip(exact_rows(first, index), exact_rows(second, index), strict=True)
    for one, other in rows:
        places = max(one.places, other.places)
        total = ((one.over(places) - other.over(places)) ** 2).sum()
        found += Fraction(int(total), 1 << 2 * places)
    return found


def entries_of(system: System) -> Iterator[tuple[int, ...]]:
    return product(*map(range, system.batch))
