"""What one thread of this machine can do at most, measured in the same run as what is compared."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, no_type_check

import numpy as np
import torch
from numba import njit

from dsf.kernels.exponentials import A0, A1, A2, A3, A4, A5, LEAST, MANTISSA, ONE, ROUNDER, chosen


def processor_seconds(work: Callable[[], Any]) -> float:
    """Time that this process was at work, in all its threads, whatever else the machine does."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def interleaved(works: dict[str, Callable[[], Any]], *, rounds: int) -> dict[str, float]:
    """The median seconds of each, taken in turns after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            seconds = processor_seconds(work)
            if turn:
                taken[name].append(seconds)
    return {name: median(each) for name, each in taken.items()}


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
@no_type_check
def _exponentials(exponents, sums, turns):
    for _ in range(turns):
        for i in range(len(exponents)):
            x = chosen(exponents[i] < LEAST, LEAST, exponents[i])
            rounded = np.float32(x + ROUNDER)
            rest = x - (rounded - ROUNDER)
            slope = A0 + rest * (A1 + rest * (A2 + rest * (A3 + rest * (A4 + rest * A5))))
            power = np.int32((rounded.view(np.int32) << MANTISSA) + ONE).view(np.float32)
            sums[i] = (power + power * (rest * slope)) * sums[i] + exponents[i]


def exponentials(count: int) -> Callable[[], None]:
    """As many exponentials of single precision, each with a product and a sum, in the cache."""
    exponents = -5 * np.random.default_rng(0).random(1024, dtype=np.float32)
    sums = np.zeros_like(exponents)
    return lambda: _exponentials(exponents, sums, count // len(exponents))


def products(operations: float) -> Callable[[], None]:
    """As many operations in products of large matrices of single precision."""
    left, right = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))
    turns = max(1, round(operations / (2 * 1024**3)))

    def multiply() -> None:
        for _ in range(turns):
            left @ right

    return multiply


def passes(numbers: int, *, reads: int) -> Callable[[], Any]:
    """So many numbers of single precision read from memory, ``reads`` times, and written once."""
    given, out = torch.ones(reads, numbers), torch.empty(numbers)
    if reads == 1:
        return lambda: out.copy_(given[0])
    return lambda: torch.add(given[0], given[1], out=out)
