"""Rows of maps on their way from the cache to memory, past all larger caches.

To fetch a line of memory before it is written over takes as long as to write it, and a map is
seldom read before it is complete.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from dsf.kernels.compiling import kernel
from dsf.kernels.registers import ahead, lanes, load, number, put, store_past

LINE = 64  # bytes of the cache


class Target(NamedTuple):
    """Where rows are written."""

    numbers: np.ndarray
    rows: int  # of every system
    clean: bool  # whether it holds zeros
    skew: int  # numbers ahead of the first line of the cache


def target_of(maps: np.ndarray, *, clean: bool) -> Target:
    """The memory of some maps, ``entry rows columns`` without gaps."""
    skew = -maps.ctypes.data // maps.itemsize % (LINE // maps.itemsize)
    return Target(maps.reshape(-1), maps.shape[1], clean, skew)


@kernel()
@no_type_check
def stream(line, count, target, o):
    """Copy numbers to their place in the target."""
    out, lane = ahead(target.numbers, o), lanes(line)
    begun = min(count, (target.skew - o) % lane)
    whole = begun + (count - begun) // lane * lane
    for j in range(begun):
        put(out, j, number(line, j))
    for j in range(begun, whole, lane):
        store_past(out, j, load(line, j))
    for j in range(whole, count):
        put(out, j, number(line, j))
