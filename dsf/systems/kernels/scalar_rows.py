"""Rows of maps with one scalar decay a token: scores of reads and writes, times decays.

Tokens are cut into tiles. An entry is ``score x reach x gap x factor``, where ``reach`` is the
product of decays from the row (query) back to the start of its tile, ``gap`` that over the tiles
between, and ``factor`` that from the column (key) to the end of its tile. Decays are only
multiplied, in float64, so decays of zero or near zero lose no accuracy.
"""

from typing import NamedTuple

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    ahead,
    arrived,
    lanes,
    load,
    pointers,
    spread,
    store,
    stream,
)

TILE = 64


class Scratch(NamedTuple):
    line: np.ndarray  # the row, padded to whole tiles
    scale: np.ndarray  # decays between every earlier tile and the row
    gap: np.ndarray  # decays between every earlier tile and the tile of the row, in float64
    held: np.ndarray  # decays between every token of its own tile and the row, in float64


def scratch_of(like: np.ndarray, tiles: int) -> Scratch:
    line, scale = np.zeros(tiles * TILE, like.dtype), np.zeros(tiles, like.dtype)
    return Scratch(line, scale, np.zeros(tiles), np.zeros(TILE))


@kernel()
def suffixes(decay, step, factor, product):
    """Fill ``factor``, ``step`` times the decays after a token in its tile, and ``product``."""
    heads, steps = decay.shape
    for h in range(heads):
        for tile in range(product.shape[1]):
            running = 1.0
            for j in range(min(steps, (tile + 1) * TILE) - 1, tile * TILE - 1, -1):
                factor[h, j] = running * step[h, j]
                running *= decay[h, j]
            product[h, tile] = running


@kernel()
def far_tiles(score, gap, seen, scale, factor, tiles, line):
    """The part of a row before its own tile; ``seen`` is the decay from the tile's start to it."""
    lane = lanes(line)
    for tile in range(tiles):
        scale[tile] = gap[tile] * seen
        passed = spread(scale, tile)
        for j in range(tile * TILE, (tile + 1) * TILE, lane):
            store(line, j, load(score, j) * passed * load(factor, j))


@kernel()
def own_tile(score, held, count, line):
    """The part of a row in its own tile: ``count`` entries, then zeros."""
    for j in range(count):
        line[j] = score[j] * held[j]
    for j in range(count, TILE):
        line[j] = 0.0


@kernel()
def hold(held, at, decay, step):
    """Multiply the decays of all tokens of a tile by ``decay``, and start those of token ``at``."""
    for j in range(TILE):
        held[j] *= decay
    held[at] = step


@kernel()
def write_rows(
    score, decay, step, feedthrough, factor, product, tile, first, before, memory, place, top
):
    """Write rows from token ``first`` on, all in ``tile``, for every head.

    ``score`` is reads times writes for these rows and all columns up to the last of them. Rows are
    written to those of ``place`` from ``top`` on.
    """
    scores, factors = pointers(score), pointers(factor)
    scratch, target = pointers(memory), pointers(place)
    (rows, stop), (heads, steps), start = score.shape, decay.shape, tile * TILE
    count = min(start + TILE, steps) if target.clean else steps
    memory.line[start:] = 0
    for h in range(heads):
        running = 1.0
        for earlier in range(tile - 1, -1, -1):
            scratch.gap[earlier] = running
            running *= product[h, earlier]
        running = 1.0
        for t in range(start, first + rows):
            kept = running * decay[h, t]
            if not before:
                hold(scratch.held, t - start, decay[h, t], step[h, t])
            if t >= first:
                row, line = ahead(scores, (t - first) * stop), scratch.line
                seen = running if before else kept
                weights = ahead(factors, h * steps)
                far_tiles(row, scratch.gap, seen, scratch.scale, weights, tile, line)
                own = ahead(row, start), scratch.held, t - start + (not before)
                own_tile(*own, ahead(line, start))
                line[t] += feedthrough[h, t]
                stream(line, count, target, (h * target.rows + top + t - first) * steps)
            if before:
                hold(scratch.held, t - start, decay[h, t], step[h, t])
            running = kept
    arrived()
