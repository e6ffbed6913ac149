"""Row reductions over the diagonal tiles of maps with one scalar decay a token.

In a diagonal tile the queries (rows) and the keys (columns) are the same tokens, so the decays
between them differ from entry to entry.
"""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import chosen, log_of
from dsf.systems.kernels.scalar_tile_sums import (
    DISTANCE,
    ENERGY,
    LARGEST,
    LOWEST,
    MASS,
    NEAR,
    NEGATIVE,
    SURPRISE,
    TILE,
    add_peaks,
)

LANES = 16  # rows that are processed together, as a fixed count for the compiler


@kernel()
@no_type_check
def sum_own_tile(
    parts: np.ndarray,
    decay: np.ndarray,
    step: np.ndarray,
    log_decay: np.ndarray,
    log_step: np.ndarray,
    feedthrough: np.ndarray,
    before: bool,
    widths: np.ndarray,
    peaks: bool,
    statistics: np.ndarray,
    reach: np.ndarray,
    log_reach: np.ndarray,
) -> None:
    """Add the rows of one diagonal tile to ``statistics``; fill the decays from its start.

    ``reach`` and ``log_reach`` are the decays from the start of the tile up to every row, and their
    logarithms. ``parts`` and ``statistics`` are as in :mod:`dsf.systems.kernels.scalar_tile_sums`.
    """
    heads, rows = decay.shape
    flat, plane = parts.reshape(-1), parts.shape[1]
    diagonal = np.zeros(TILE)
    running = np.empty(2 * TILE)  # decays from a column to the rows, and their logarithms
    for h in range(heads):
        passed, log_passed = 1.0, 0.0
        for i in range(rows):
            if before:
                reach[h, i], log_reach[h, i] = passed, log_passed
            passed, log_passed = passed * decay[h, i], log_passed + log_decay[h, i]
            if not before:
                reach[h, i], log_reach[h, i] = passed, log_passed
        running[:] = 0
        for j in range(rows - 1, -1, -1):
            if j + 1 < rows:
                fade, log_fade = np.float64(decay[h, j + 1]), np.float64(log_decay[h, j + 1])
                _fade(running, j + 2, fade, log_fade)
                running[j + 1] = 1.0 if before else fade
                running[TILE + j + 1] = 0.0 if before else log_fade
            write, log = np.float64(step[h, j]), np.float64(log_step[h, j])
            _add_column(flat, plane, j, write, log, running, statistics[h])
            if peaks:
                add_peaks(flat, plane, j * TILE, write, running, statistics[h])
            for w in range(len(widths)):
                if widths[w] < TILE:
                    for i in range(j + 1, min(rows, j + widths[w])):
                        close = flat[j * TILE + i] * (running[i] * write)
                        statistics[h, (NEAR + w) * TILE + i] += close
            score = flat[j * TILE + j] - 2 * flat[2 * plane + j * TILE + j]
            diagonal[j] = feedthrough[h, j] + (0.0 if before else score * write)
        _add_diagonal(diagonal, widths, statistics[h])


@kernel()
@no_type_check
def _fade(running, row, fade, log_fade):
    """Multiply the decays of the rows from about ``row`` on; rows before it are set later."""
    for block in range(row // LANES, TILE // LANES):
        o = block * LANES
        for i in range(LANES):
            running[o + i] *= fade
            running[TILE + o + i] += log_fade


@kernel()
@no_type_check
def _add_column(parts, plane, column, write, log, running, statistics):
    """Add the entries of a column below the diagonal; ``running`` is zero on and above it."""
    if plane < 0 or column < 0:
        return
    for block in range((column + 1) // LANES, TILE // LANES):
        o = block * LANES
        at, shift = column * TILE + o, o - column
        for i in range(LANES):
            scale = running[o + i] * write
            entry = parts[at + i] * scale
            logged = parts[plane + at + i] * scale + entry * (running[TILE + o + i] + log)
            statistics[MASS * TILE + o + i] += entry
            statistics[NEGATIVE * TILE + o + i] += parts[2 * plane + at + i] * scale
            statistics[SURPRISE * TILE + o + i] += logged
            statistics[DISTANCE * TILE + o + i] += entry * (shift + i)


@kernel()
@no_type_check
def _add_diagonal(diagonal, widths, statistics):
    for i in range(TILE):
        entry = diagonal[i]
        size, below = abs(entry), chosen(entry > 0, 0.0, -entry)
        largest, lowest = statistics[LARGEST * TILE + i], statistics[LOWEST * TILE + i]
        statistics[MASS * TILE + i] += size
        statistics[NEGATIVE * TILE + i] += below
        statistics[ENERGY * TILE + i] += size * size
        statistics[SURPRISE * TILE + i] += size * log_of(size)
        statistics[LARGEST * TILE + i] = chosen(size <= largest, largest, size)
        statistics[LOWEST * TILE + i] = chosen(entry >= lowest, lowest, entry)
    for w in range(len(widths)):
        near = (NEAR + w) * TILE
        for i in range(TILE):
            if widths[w] < TILE:
                statistics[near + i] += abs(diagonal[i])
            else:
                statistics[near + i] = statistics[MASS * TILE + i]
