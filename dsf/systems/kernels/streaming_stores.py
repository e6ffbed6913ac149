"""Streaming (non-temporal) stores: rows of maps are written to memory without passing the caches.

An ordinary store first loads the cache line that it overwrites, which takes as long as writing it;
and a map is rarely read before it is complete.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import ahead, lanes, load, number, put, store_past

LINE = 64  # bytes of a cache line


class Target(NamedTuple):
    """The memory that rows are written to."""

    numbers: np.ndarray
    rows: int  # of every system
    clean: bool  # whether it is filled with zeros
    skew: int  # numbers before the first boundary of a cache line


def target_of(maps: np.ndarray, *, clean: bool) -> Target:
    """The memory of some maps, a contiguous array ``entry rows columns``, as a target."""
    skew = -maps.ctypes.data // maps.itemsize % (LINE // maps.itemsize)
    return Target(maps.reshape(-1), maps.shape[1], clean, skew)


@kernel()
@no_type_check
def stream(line, count, target, o):
    """Copy ``count`` numbers of ``line`` to the target from index ``o`` on by streaming stores."""
    out, lane = ahead(target.numbers, o), lanes(line)
    begun = min(count, (target.skew - o) % lane)
    whole = begun + (count - begun) // lane * lane
    for j in range(begun):
        put(out, j, number(line, j))
    for j in range(begun, whole, lane):
        store_past(out, j, load(line, j))
    for j in range(whole, count):
        put(out, j, number(line, j))
