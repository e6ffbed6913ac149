"""Rows of maps whose states share one decay a token: scores of reads and writes, times decays.

Tokens are cut into tiles. An entry is ``score x reach x gap x factor``: decays from the row back to
the start of its tile, over the tiles between, and from the column on to the end of its tile. Decays
are only multiplied, in float64, so zeros and violent decays are exact.
"""

from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel

TILE = 64


@kernel()
@no_type_check
def suffixes(decay: np.ndarray, step: np.ndarray, factor: np.ndarray, product: np.ndarray) -> None:
    """``factor``: ``step`` times the decays after a token in its tile; ``product``: whole tiles."""
    heads, steps = decay.shape
    for h in range(heads):
        for tile in range(product.shape[1]):
            running = 1.0
            for j in range(min(steps, (tile + 1) * TILE) - 1, tile * TILE - 1, -1):
                factor[h, j] = running * step[h, j]
                running *= decay[h, j]
            product[h, tile] = running


@kernel()
@no_type_check
def write_rows(
    scores: np.ndarray,
    decay: np.ndarray,
    step: np.ndarray,
    feedthrough: np.ndarray,
    factor: np.ndarray,
    product: np.ndarray,
    tile: int,
    first: int,
    before: bool,
    out: np.ndarray,
    top: int,
) -> None:
    """Rows from ``first`` on, all in ``tile``, for every head: to the rows of ``out`` from ``top``.

    ``scores`` holds reads times writes up to the last of these rows.
    """
    rows, start = scores.shape[0], tile * TILE
    reach, gap = np.empty(TILE), np.empty(tile)
    for h in range(decay.shape[0]):
        running = 1.0
        for t in range(start, first + rows):
            kept = running * decay[h, t]
            reach[t - start] = running if before else kept
            running = kept
        running = 1.0
        for earlier in range(tile - 1, -1, -1):
            gap[earlier] = running
            running *= product[h, earlier]
        for i in range(rows):
            for earlier in range(tile):
                columns = slice(earlier * TILE, (earlier + 1) * TILE)
                # slices: an index that might wrap around is not vectorised
                score, after, row = scores[i, columns], factor[h, columns], out[h, top + i, columns]
                scale = scores.dtype.type(reach[first - start + i] * gap[earlier])
                for j in range(TILE):
                    row[j] = score[j] * scale * after[j]
        own_tile(scores, decay[h], step[h], feedthrough[h], start, first, before, out[h], top)


@kernel()
@no_type_check
def own_tile(
    scores: np.ndarray,
    decay: np.ndarray,
    step: np.ndarray,
    feedthrough: np.ndarray,
    start: int,
    first: int,
    before: bool,
    out: np.ndarray,
    top: int,
) -> None:
    """The entries in the columns from ``start`` on, zeros above the diagonal."""
    stop = scores.shape[1]
    running = np.empty(TILE)
    for t in range(start, stop):
        held = t - start
        if not before:
            for j in range(held):
                running[j] *= decay[t]
            running[held] = step[t]
            held += 1
        if t >= first:
            row = out[top + t - first]
            for j in range(held):
                row[start + j] = scores[t - first, start + j] * running[j]
            for j in range(start + held, stop):
                row[j] = 0
            row[t] += feedthrough[t]
        if before:
            for j in range(held):
                running[j] *= decay[t]
            running[held] = step[t]
