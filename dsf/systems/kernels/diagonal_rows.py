"""Rows of maps with a decay for every state.

The entries of a row in the columns of an earlier tile of tokens are a product of small matrices.
Rows are assembled in the cache and then written to memory by streaming stores.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.diagonal_tiles import FOURS, TILE, fold_tile, multiply
from dsf.systems.kernels.registers import (
    WIDE,
    ahead,
    arrived,
    lanes,
    load,
    load_double,
    nothing,
    ones,
    pointers,
    store,
    stream,
)


class Kept(NamedTuple):
    """The matrices of the tiles so far, which later rows need, as flat arrays (``fold_tile``)."""

    systems: int  # 1 if all rows of a system are written at once, so that memory is reused
    sent: np.ndarray  # of every tile
    product: np.ndarray  # of every tile
    local: np.ndarray  # of the last tile
    reach: np.ndarray  # of the last tile


@kernel()
@no_type_check
def scale_reads(width, tile, skip, rows, scratch, product, reach):
    """Reads times the decays back to the end of every earlier tile."""
    for n in range(0, width, WIDE):
        store(scratch.gap, n, ones())
    for earlier in range(tile - 1, -1, -1):
        for n in range(0, width, WIDE):
            store(scratch.shrunk, n, load_double(scratch.gap, n))
            more = load_double(product, earlier * width + n)
            store(scratch.gap, n, load_double(scratch.gap, n) * more)
        for i in range(skip * width, (skip + rows) * width, width):
            for n in range(i, i + width, lanes(reach)):
                each = load(reach, n) * load(scratch.shrunk, n - i)
                store(scratch.scaled, earlier * TILE * width + n, each)


@kernel()
@no_type_check
def write_rows(given, tile, skip, rows, scratch, sent, product, local, reach, target, o):
    """Write ``rows`` rows of a tile after its first ``skip`` to the target from index ``o`` on."""
    width, steps, own, lane = given.width, given.steps, tile * TILE, lanes(local)
    pitch = (steps + TILE - 1) // TILE * TILE
    count = min(own + TILE, steps) if target.clean else steps
    scale_reads(width, tile, skip, rows, scratch, product, reach)
    for i in range(skip, skip + rows, FOURS):
        for earlier in range(tile):
            left = scratch.scaled, (earlier * TILE + i) * width, width, given.states
            right, out = (sent, earlier * TILE * width), (scratch.lines, earlier * TILE, pitch)
            multiply(*left, *right, FOURS, TILE, *out)
        for k in range(min(FOURS, skip + rows - i)):
            line = ahead(scratch.lines, k * pitch)
            for j in range(own, count, lane):
                inside = j < own + TILE
                each = load(local, (i + k) * TILE + j - own) if inside else nothing(local)
                store(line, j, each)
            stream(line, count, target, o + (i - skip + k) * steps)


@kernel()
@no_type_check
def fill(coefficients, matrices, memory, entered, start, stop, place, top):
    """Write the rows ``start`` to ``stop - 1`` of every system to the target from row ``top`` on.

    ``matrices`` holds the first ``entered`` tiles already; the others are added to it.
    """
    given, kept = pointers(coefficients), pointers(matrices)
    scratch, target = pointers(memory), pointers(place)
    width, tiles = given.width, (given.steps + TILE - 1) // TILE
    for s in range(given.systems):
        k = min(s, kept.systems - 1)
        sent = ahead(kept.sent, k * tiles * TILE * width)
        product = ahead(kept.product, k * tiles * width)
        local, reach = ahead(kept.local, k * TILE * TILE), ahead(kept.reach, k * TILE * width)
        for tile in range(min(entered, start // TILE), (stop + TILE - 1) // TILE):
            if tile >= entered:
                mine = ahead(sent, tile * TILE * width), ahead(product, tile * width)
                fold_tile(given, s, tile, scratch, *mine, local, reach)
            first, last = max(start, tile * TILE), min(stop, (tile + 1) * TILE)
            if first < last:
                o = (s * target.rows + top + first - start) * given.steps
                span = tile, first - tile * TILE, last - first
                write_rows(given, *span, scratch, sent, product, local, reach, target, o)
    arrived()
