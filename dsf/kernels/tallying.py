"""Sums over the entries of rows, and what the entries that were not looked at can add to them.

Rows are handled a tile at a time and their columns backwards, in chunks. ``tally`` holds for every
kind of sum, head and row: see the constants.
"""

import math
from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel

TILE = 64
MASS, NEGATIVE, ENERGY, SURPRISE, DISTANCE, LARGEST, LOWEST, NEAR = range(8)


@kernel()
@no_type_check
def all_before(decay: np.ndarray, weight: np.ndarray, mass: np.ndarray, lagged: np.ndarray) -> None:
    """At the end of every tile: weights of all tokens so far, faded; and those times their lag."""
    for h in range(decay.shape[0]):
        total, moved = 0.0, 0.0
        for t in range(decay.shape[1]):
            moved = decay[h, t] * (moved + total)
            total = decay[h, t] * total + weight[h, t]
            if (t + 1) % TILE == 0:
                mass[h, t // TILE], lagged[h, t // TILE] = total, moved


@kernel()
@no_type_check
def own_entries(
    scores: np.ndarray,
    decay: np.ndarray,
    step: np.ndarray,
    feedthrough: np.ndarray,
    before: bool,
    out: np.ndarray,
    reach: np.ndarray,
) -> None:
    """Rows of one tile in its own columns, and the decays from its start up to every row."""
    rows = scores.shape[0]
    running = np.empty(rows)
    for h in range(decay.shape[0]):
        passed = 1.0
        for i in range(rows):
            row = out[h, i]
            held = i if before else i + 1
            if before:
                reach[h, i] = passed
            passed *= decay[h, i]
            if not before:
                reach[h, i] = passed
                for j in range(i):
                    running[j] *= decay[h, i]
                running[i] = step[h, i]
            for j in range(held):
                row[j] = scores[i, j] * running[j]
            for j in range(held, rows):
                row[j] = 0
            row[i] += feedthrough[h, i]
            if before:
                for j in range(i):
                    running[j] *= decay[h, i]
                running[i] = step[h, i]


@kernel()
@no_type_check
def tally_entries(
    entries: np.ndarray, logs: np.ndarray, lag: int, widths: np.ndarray, tally: np.ndarray
) -> None:
    """Add entries written out. The first row is ``lag`` tokens behind the first column."""
    for h in range(entries.shape[0]):
        for i in range(entries.shape[1]):
            row, log = entries[h, i], logs[h, i]
            mass, negative, energy, surprise, distance = 0.0, 0.0, 0.0, 0.0, 0.0
            largest, lowest = tally[LARGEST, h, i], tally[LOWEST, h, i]
            for j in range(min(len(row), lag + i + 1)):
                size = abs(row[j])
                mass += size
                energy += size * size
                surprise += size * log[j]
                distance += size * (lag + i - j)
                if row[j] < 0:
                    negative += size
                if not size <= largest:
                    largest = size
                if not row[j] >= lowest:
                    lowest = row[j]
            tally[MASS, h, i] += mass
            tally[NEGATIVE, h, i] += negative
            tally[ENERGY, h, i] += energy
            tally[SURPRISE, h, i] += surprise
            tally[DISTANCE, h, i] += distance
            tally[LARGEST, h, i], tally[LOWEST, h, i] = largest, lowest
            for w in range(len(widths)):
                for j in range(max(0, lag + i + 1 - widths[w]), min(len(row), lag + i + 1)):
                    tally[NEAR + w, h, i] += abs(row[j])


@kernel()
@no_type_check
def faded_columns(
    factor: np.ndarray,
    logs: np.ndarray,
    product: np.ndarray,
    heads: np.ndarray,
    first: int,
    last: int,
    right: np.ndarray,
) -> None:
    """Columns of the tiles ``first`` to ``last - 1``, faded to their end; times log; times lag."""
    count = len(heads)
    for a in range(count):
        h, passed = heads[a], 1.0
        for tile in range(last - 1, first - 1, -1):
            log = math.log(passed) if passed > 0 else 0.0
            for t in range(tile * TILE, (tile + 1) * TILE):
                j, size = t - first * TILE, factor[h, t] * passed
                right[j, a] = size
                right[j, count + a] = size * (logs[h, t] + log)
                right[j, 2 * count + a] = size * (last * TILE - 1 - t)
            passed *= product[h, tile]


@kernel()
@no_type_check
def tally_chunk(
    sums: np.ndarray,
    logged: np.ndarray,
    negative: np.ndarray,
    energy: np.ndarray,
    near: np.ndarray,
    heads: np.ndarray,
    reach: np.ndarray,
    gap: np.ndarray,
    lag: int,
    tally: np.ndarray,
) -> None:
    """Add a chunk of columns, summed by matrix products before the decays up to the rows."""
    count = len(heads)
    for a in range(count):
        h = heads[a]
        for i in range(sums.shape[0]):
            scale = reach[h, i] * gap[h]
            if scale == 0:
                continue
            size = sums[i, a]
            tally[MASS, h, i] += scale * size
            tally[NEGATIVE, h, i] += scale * negative[i, a]
            tally[ENERGY, h, i] += scale * scale * energy[i, a]
            surprise = logged[i, a] + sums[i, count + a] + math.log(scale) * size
            tally[SURPRISE, h, i] += scale * surprise
            tally[DISTANCE, h, i] += scale * (sums[i, 2 * count + a] + (lag + i) * size)
            for w in range(near.shape[0]):
                tally[NEAR + w, h, i] += scale * near[w, i, a]


@kernel()
@no_type_check
def tally_peaks(
    scores: np.ndarray,
    right: np.ndarray,
    heads: np.ndarray,
    reach: np.ndarray,
    gap: np.ndarray,
    tally: np.ndarray,
) -> None:
    """Note the largest entry in size and the lowest of a chunk of columns."""
    rows, columns = scores.shape
    for a in range(len(heads)):
        h = heads[a]
        for i in range(rows):
            scale = reach[h, i] * gap[h]
            high, low = 0.0, 0.0
            for j in range(columns):
                entry = scores[i, j] * right[j, a]
                high = max(high, entry)
                low = min(low, entry)
            tally[LARGEST, h, i] = max(tally[LARGEST, h, i], scale * max(high, -low))
            tally[LOWEST, h, i] = min(tally[LOWEST, h, i], scale * low)
