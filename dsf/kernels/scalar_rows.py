"""Rows of maps whose states share one decay a token: scores of reads and writes, times decays.

Tokens are cut into tiles. An entry is ``score x reach x gap x factor``: decays from the row back to
the start of its tile, over the tiles between, and from the column on to the end of its tile. Decays
are only multiplied, in float64, so zeros and violent decays are exact.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from dsf.kernels.compiling import kernel
from dsf.kernels.registers import (
    WIDE,
    ahead,
    arrived,
    everywhere,
    in_first,
    lanes,
    load,
    load_double,
    nothing,
    number,
    pointers,
    put,
    spread,
    store,
)
from dsf.kernels.streaming_stores import stream

TILE = 64


class Scratch(NamedTuple):
    """Memory for a row at work."""

    line: np.ndarray  # as long as all tiles
    scale: np.ndarray  # decays between earlier tiles and the row
    gap: np.ndarray  # between earlier tiles and that of the row, in double precision
    held: np.ndarray  # from the tokens of its own tile on, in double precision


def scratch_of(like: np.ndarray, tiles: int) -> Scratch:
    """As much as rows of so many tiles need."""
    line, scale = np.zeros(tiles * TILE, like.dtype), np.zeros(tiles + WIDE, like.dtype)
    return Scratch(line, scale, np.zeros(tiles + WIDE), np.zeros(TILE))


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
def far_tiles(score, gap, seen, scale, factor, tiles, line):
    """The part of a row before its own tile; ``seen`` decays lie between that and the row."""
    lane = lanes(line)
    for tile in range(0, tiles, WIDE):
        store(scale, tile, load_double(gap, tile) * seen)
    for tile in range(tiles):
        passed = spread(scale, tile)
        for j in range(tile * TILE, (tile + 1) * TILE, lane):
            store(line, j, load(score, j) * passed * load(factor, j))


@kernel()
@no_type_check
def own_tile(score, held, count, line):
    """The part of a row in its own tile: ``count`` entries, then zeros."""
    for j in range(0, TILE, WIDE):
        each = load_double(score, j) * load_double(held, j)
        store(line, j, in_first(count - j, each, everywhere(0.0)))


@kernel()
@no_type_check
def hold(held, at, decay, step):
    """Decays from every token of a tile on, one token later: that of the token ``at``."""
    for j in range(0, TILE, WIDE):
        store(held, j, load_double(held, j) * decay)
    put(held, at, np.float64(step))


@kernel()
@no_type_check
def write_rows(
    score, decay, step, feedthrough, factor, product, tile, first, before, memory, place, top
):
    """Rows from ``first`` on, all in ``tile``, for every head: to those of ``place`` from ``top``.

    ``score`` holds reads times writes up to the last of these rows.
    """
    scores, factors = pointers(score), pointers(factor)
    scratch, target = pointers(memory), pointers(place)
    (rows, stop), (heads, steps), start = score.shape, decay.shape, tile * TILE
    count = min(start + TILE, steps) if target.clean else steps
    for j in range(start, len(memory.line), lanes(scratch.line)):
        store(scratch.line, j, nothing(scratch.line))
    for h in range(heads):
        running = 1.0
        for earlier in range(tile - 1, -1, -1):
            put(scratch.gap, earlier, running)
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
                put(line, t, number(line, t) + feedthrough[h, t])
                stream(line, count, target, (h * target.rows + top + t - first) * steps)
            if before:
                hold(scratch.held, t - start, decay[h, t], step[h, t])
            running = kept
    arrived()
