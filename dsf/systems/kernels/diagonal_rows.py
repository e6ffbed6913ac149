"""Rows of maps with a decay for every state.

Tiles of tokens are folded into four matrices, and the entries of a row in the columns of an earlier
tile are a product of small ones. Decays are running products within a block of tokens, and in
double precision from block to block and from tile to tile, so decays of zero or near zero lose no
accuracy. Rows are assembled in the cache and then written to memory by streaming stores.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import power_of_two
from dsf.systems.kernels.registers import (
    WIDE,
    ahead,
    arrived,
    in_first,
    lanes,
    load,
    load_double,
    nothing,
    number,
    ones,
    pointers,
    put,
    spread,
    store,
    stream,
)

TILE, NEAR, FOURS = 64, 16, 4
BITS = float(np.log2(np.e))


class Part(NamedTuple):
    """A table of every system, in one flat array."""

    numbers: np.ndarray
    entry: int  # numbers from system to system, zero where they share
    row: int  # numbers from row to row


class Given(NamedTuple):
    """Coefficients of some systems; decays and reads have a row a token, writes a row a state."""

    decay: Part  # if ``sampled``, the poles: log decays for a step of one
    step: Part
    sampled: bool
    write: Part
    gain: Part
    read: Part
    feedthrough: Part
    before: bool
    systems: int
    steps: int
    states: int
    width: int  # states, padded with zeros to whole registers


class Scratch(NamedTuple):
    """Working memory for one system."""

    exact: np.ndarray  # decays in double precision
    pace: np.ndarray  # steps in units of log 2
    gap: np.ndarray
    decay: np.ndarray
    read: np.ndarray
    start: np.ndarray  # reads times the decays from the start of a block
    gain: np.ndarray
    passed: np.ndarray  # products of the decays of a block
    shrunk: np.ndarray
    scaled: np.ndarray
    lines: np.ndarray


def sizes_of_scratch(width: int, tiles: int) -> tuple[int, ...]:
    """The sizes of the arrays of ``Scratch``; the first three are in double precision."""
    table = TILE * width
    small = table, TILE, width, table, table, table, TILE, TILE // NEAR * width, width
    return *small, tiles * table + FOURS * width, FOURS * tiles * TILE


@kernel()
@no_type_check
def multiply(left, l0, width, states, right, r0, rows, columns, out, o0, pitch):
    """``out = left @ right`` in blocks of four rows and two registers of columns.

    The distance from row to row is ``width`` in ``left`` (``states`` of it are used), ``TILE`` in
    ``right`` and ``pitch`` in ``out``; ``l0``, ``r0`` and ``o0`` are the first indices.
    """
    lane = lanes(out)
    for i in range(0, rows, 4):
        for j in range(0, columns, 2 * lane):
            n0 = l0 + i * width
            n1, n2, n3 = n0 + width, n0 + 2 * width, n0 + 3 * width
            r = r0 + j
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = nothing(out)
            for n in range(states):
                a, b = load(right, r), load(right, r + lane)
                r += TILE
                each = spread(left, n0 + n)
                a0, b0 = a0 + each * a, b0 + each * b
                each = spread(left, n1 + n)
                a1, b1 = a1 + each * a, b1 + each * b
                each = spread(left, n2 + n)
                a2, b2 = a2 + each * a, b2 + each * b
                each = spread(left, n3 + n)
                a3, b3 = a3 + each * a, b3 + each * b
            o = o0 + i * pitch + j
            store(out, o, a0)
            store(out, o + lane, b0)
            store(out, o + pitch, a1)
            store(out, o + pitch + lane, b1)
            store(out, o + 2 * pitch, a2)
            store(out, o + 2 * pitch + lane, b2)
            store(out, o + 3 * pitch, a3)
            store(out, o + 3 * pitch + lane, b3)


@kernel()
@no_type_check
def nearest(sent, decay, read, width, states, first, before, local):
    """The map of one block, with a lane for every token: its write is decayed token by token.

    Afterwards the columns of the block in ``sent`` hold the writes decayed to its end.
    """
    lane = lanes(local)
    for j in range(0, NEAR, lane):
        for n in range(0, states, 4):
            at = n * TILE + first + j
            h0, h1 = load(sent, at), load(sent, at + TILE)
            h2, h3 = load(sent, at + 2 * TILE), load(sent, at + 3 * TILE)
            for i in range(NEAR + before):
                last = i - before
                d, older = max(first + last, 0) * width + n, last - j
                h0 = in_first(older, h0 * spread(decay, d), h0)
                h1 = in_first(older, h1 * spread(decay, d + 1), h1)
                h2 = in_first(older, h2 * spread(decay, d + 2), h2)
                h3 = in_first(older, h3 * spread(decay, d + 3), h3)
                if i < NEAR:
                    r, o = (first + i) * width + n, (first + i) * TILE + first + j
                    seen = load(local, o) if n else nothing(local)
                    seen = seen + spread(read, r) * h0
                    seen = seen + spread(read, r + 1) * h1
                    seen = seen + spread(read, r + 2) * h2
                    seen = seen + spread(read, r + 3) * h3
                    store(local, o, in_first(older + 1, seen, nothing(local)))
            store(sent, at, h0)
            store(sent, at + TILE, h1)
            store(sent, at + 2 * TILE, h2)
            store(sent, at + 3 * TILE, h3)


@kernel()
@no_type_check
def running(exact, read, width, states, before, start, reach, passed, product):
    """Reads times the decays from the start of their block (``start``) and tile (``reach``).

    The decay of the read's own token is included unless ``before``. Also the products of all decays
    of every block (``passed``) and of the tile (``product``).
    """
    for n in range(0, states, WIDE):
        whole = ones()
        for first in range(0, TILE, NEAR):
            block = ones()
            for i in range(first, first + NEAR):
                at = i * width + n
                kept = block * load_double(exact, at)
                seen = load_double(read, at) * (block if before else kept)
                store(start, at, seen)
                store(reach, at, seen * whole)
                block = kept
            store(passed, first // NEAR * width + n, block)
            whole = whole * block
        store(product, n, whole)


@kernel()
@no_type_check
def clear(table, first, last):
    """Write zeros from index ``first`` to ``last``, rounded up to whole registers."""
    for k in range(first, last, lanes(table)):
        store(table, k, nothing(table))


@kernel()
@no_type_check
def load_tile(given, s, start, rows, scratch, sent):
    """Decays, reads and writes of the tokens of one tile of one system, zeros after the last."""
    exact, pace, width, read = scratch.exact, scratch.pace, given.width, given.read
    step, gain, decay, write = given.step, given.gain, given.decay, given.write
    clear(scratch.gain, 0, TILE)
    for i in range(rows):
        put(pace, i, BITS * number(step.numbers, s * step.entry + (start + i) * step.row))
        put(scratch.gain, i, number(gain.numbers, s * gain.entry + (start + i) * gain.row))
    for i in range(rows):
        d = s * decay.entry + (start + i) * decay.row
        for n in range(0, width, WIDE):
            each = load_double(decay.numbers, d + n)
            store(exact, i * width + n, each * spread(pace, i) if given.sampled else each)
    if given.sampled:
        for k in range(rows * width):
            put(exact, k, power_of_two(number(exact, k)))
    for i in range(rows):
        r = s * read.entry + (start + i) * read.row
        for n in range(0, width, WIDE):
            store(scratch.decay, i * width + n, load_double(exact, i * width + n))
            store(scratch.read, i * width + n, load_double(read.numbers, r + n))
    for table in (scratch.decay, scratch.read):
        clear(table, rows * width, TILE * width)
    clear(exact, rows * width, TILE * width)
    for n in range(width):
        w = s * write.entry + n * write.row + start
        for j in range(0, TILE, lanes(sent)):
            each = load(write.numbers, w + j) * load(scratch.gain, j)
            store(sent, n * TILE + j, each)


@kernel()
@no_type_check
def fold_tile(given, s, tile, scratch, sent, product, local, reach):
    """Fold one tile of one system into four matrices, which are written into the last arguments.

    Args:
        given: the coefficients.
        s, tile: the indices of the system and of the tile.
        scratch: working memory.
        sent: the writes times the decays after them, ``state token``.
        product: the product of all decays, for every state.
        local: the map of the tile alone; must be zero above the diagonal beforehand.
        reach: the reads times the decays up to them, ``token state``.
    """
    start, width, states = tile * TILE, given.width, given.states
    rows, lane, feedthrough = min(TILE, given.steps - start), lanes(local), given.feedthrough
    load_tile(given, s, start, rows, scratch, sent)
    parts = (scratch.start, reach, scratch.passed, product)
    running(scratch.exact, scratch.read, width, states, given.before, *parts)
    for first in range(0, TILE, NEAR):
        left = scratch.start, first * width, width, states
        multiply(*left, sent, 0, NEAR, first, local, first * TILE, TILE)
        nearest(sent, scratch.decay, scratch.read, width, states, first, given.before, local)
        for n in range(states):
            passed = spread(scratch.passed, first // NEAR * width + n)
            for j in range(n * TILE, n * TILE + first, lane):
                store(sent, j, load(sent, j) * passed)
    for i in range(rows):
        own = number(feedthrough.numbers, s * feedthrough.entry + (start + i) * feedthrough.row)
        put(local, i * TILE + i, number(local, i * TILE + i) + own)


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
