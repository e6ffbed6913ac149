"""Rows of maps with a decay for every state.

Tiles of tokens are folded into four matrices, and the entries of a row in the columns of an earlier
tile are a product of small ones. Decays are running products within a block of tokens, and in
double precision from block to block and from tile to tile, so decays of zero or near zero lose no
accuracy. Rows are assembled in the cache and then written to memory by streaming stores.
"""

from typing import NamedTuple

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    WIDE,
    ahead,
    arrived,
    each,
    in_first,
    lanes,
    load,
    load_double,
    loaded,
    nothing,
    pointers,
    power_of_two,
    product_and_sum,
    spread,
    spreads,
    store,
    stream,
    weighted_sum,
)

TILE, NEAR, FOURS = 64, 16, 4
BITS = float(np.log2(np.e))


class Given(NamedTuple):
    """Coefficients of some systems, by time and state; what all systems share is stored once."""

    decay: np.ndarray  # if ``sampled``, the poles: log decays for a step of one
    step: np.ndarray
    write: np.ndarray  # by state and time
    gain: np.ndarray
    read: np.ndarray
    feedthrough: np.ndarray
    sampled: bool
    before: bool


class Kept(NamedTuple):
    """Matrices that later rows need, of all systems, or of one if its rows are written at once.

    States are padded with zeros to whole cache lines.
    """

    sent: np.ndarray  # of every tile: writes times the decays after them, ``state token``
    product: np.ndarray  # of every tile: the product of all decays
    local: np.ndarray  # of the last tile: its own map, zero above the diagonal
    reach: np.ndarray  # of the last tile: reads times the decays up to them, ``token state``


class Scratch(NamedTuple):
    exact: np.ndarray  # decays in double precision
    gap: np.ndarray
    decay: np.ndarray
    read: np.ndarray
    start: np.ndarray  # reads times the decays from the start of a block
    passed: np.ndarray  # products of the decays of a block
    shrunk: np.ndarray
    scaled: np.ndarray
    lines: np.ndarray


@kernel()
def _scratch(width, tiles, like):
    """Zeros, so that unused rows of a tile stay finite."""
    table, number = TILE * width, like.dtype
    return Scratch(
        np.zeros(table),
        np.zeros(width),
        np.zeros(table, number),
        np.zeros(table, number),
        np.zeros(table, number),
        np.zeros(TILE // NEAR * width, number),
        np.zeros(width, number),
        np.zeros(tiles * table + FOURS * width, number),
        np.zeros(FOURS * tiles * TILE, number),
    )


@kernel()
def _of(part, system):
    return part[min(system, len(part) - 1)]


@kernel()
def multiply(left, l0, width, states, right, r0, rows, columns, out, o0, pitch):
    """``out = left @ right`` in blocks of four rows and two registers of columns.

    The distance from row to row is ``width`` in ``left`` (``states`` of it are used), ``TILE`` in
    ``right`` and ``pitch`` in ``out``; ``l0``, ``r0`` and ``o0`` are the first indices.
    """
    lane = lanes(out)
    for i in range(0, rows, 4):
        for j in range(0, columns, 2 * lane):
            at, r, o, zero = l0 + i * width, r0 + j, o0 + i * pitch + j, nothing(out)
            here = there = (zero, zero, zero, zero)
            for n in range(states):
                factors, a, b = spreads(left, at + n, width), load(right, r), load(right, r + lane)
                here = product_and_sum(factors, (a, a, a, a), here)
                there = product_and_sum(factors, (b, b, b, b), there)
                r += TILE
            for k in range(4):
                store(out, o + k * pitch, here[k])
                store(out, o + k * pitch + lane, there[k])


_faded = each(lambda count, decay, part: in_first(count, decay * part, part))


@kernel()
def nearest(sent, decay, read, width, states, first, before, local):
    """The map of one block, with a lane for every token: its write is decayed token by token.

    Afterwards the columns of the block in ``sent`` hold the writes decayed to its end.
    """
    lane = lanes(local)
    for j in range(0, NEAR, lane):
        for n in range(0, states, 4):
            at = n * TILE + first + j
            held = loaded(sent, at, TILE)
            for i in range(NEAR + before):
                last = i - before
                d, older = max(first + last, 0) * width + n, last - j
                held = _faded((older, older, older, older), spreads(decay, d, 1), held)
                if i < NEAR:
                    r, o = (first + i) * width + n, (first + i) * TILE + first + j
                    seen = load(local, o) if n else nothing(local)
                    seen = seen + weighted_sum(spreads(read, r, 1), held)
                    store(local, o, in_first(older + 1, seen, nothing(local)))
            for k in range(4):
                store(sent, at + k * TILE, held[k])


@kernel()
def running(exact, read, width, states, before, start, reach, passed, product):
    """Reads times the decays from the start of their block (``start``) and tile (``reach``).

    The decay of the read's own token is included unless ``before``. Also the products of all decays
    of every block (``passed``) and of the tile (``product``).
    """
    for n in range(0, states, WIDE):
        whole = nothing(exact) + 1.0
        for first in range(0, TILE, NEAR):
            block = nothing(exact) + 1.0
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
def load_tile(decay, step, write, gain, read, sampled, width, scratch, sent):
    """Decays, reads and writes of the tokens of one tile of one system, zeros after the last."""
    rows, states = read.shape
    exact, seen = scratch.exact, scratch.read
    whole, wide, near = states - states % WIDE, pointers(exact), pointers(seen)
    if rows < TILE or states < width:
        for k in range(TILE * width):
            exact[k] = seen[k] = sent[k] = 0
    for i in range(rows):
        each, own = decay[0 if sampled else i], read[i]
        pace = BITS * step[i] if sampled else 1.0
        for n in range(0, whole, WIDE):
            store(wide, i * width + n, load_double(pointers(each), n) * pace)
            store(near, i * width + n, load_double(pointers(own), n))
        for n in range(whole, states):
            exact[i * width + n], seen[i * width + n] = pace * each[n], own[n]
    if sampled:
        for k in range(rows * width):
            exact[k] = power_of_two(exact[k])
    for k in range(TILE * width):
        scratch.decay[k] = exact[k]
    for n in range(states):
        for i in range(rows):
            sent[n * TILE + i] = write[n, i] * gain[i]


@kernel()
def fold_tile(read, before, width, scratch, sent, product, local, reach):
    """Fold one tile of one system, whose numbers are loaded, into the four last arguments."""
    states, lane = read.shape[1], lanes(local)
    parts = (scratch.start, reach, scratch.passed, product)
    running(scratch.exact, scratch.read, width, states, before, *parts)
    for first in range(0, TILE, NEAR):
        left = scratch.start, first * width, width, states
        multiply(*left, sent, 0, NEAR, first, local, first * TILE, TILE)
        nearest(sent, scratch.decay, scratch.read, width, states, first, before, local)
        for n in range(states):
            passed = spread(scratch.passed, first // NEAR * width + n)
            for j in range(n * TILE, n * TILE + first, lane):
                store(sent, j, load(sent, j) * passed)


@kernel()
def scale_reads(width, tile, skip, rows, scratch, product, reach):
    """Reads times the decays back to the end of every earlier tile."""
    for n in range(0, width, WIDE):
        store(scratch.gap, n, nothing(scratch.gap) + 1.0)
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
def write_rows(
    steps, width, states, tile, skip, rows, scratch, sent, product, local, reach, target, o
):
    """Write ``rows`` rows of a tile after its first ``skip`` to the target from index ``o`` on."""
    own, lane = tile * TILE, lanes(local)
    pitch = (steps + TILE - 1) // TILE * TILE
    count = min(own + TILE, steps) if target.clean else steps
    scale_reads(width, tile, skip, rows, scratch, product, reach)
    for i in range(skip, skip + rows, FOURS):
        for earlier in range(tile):
            left = scratch.scaled, (earlier * TILE + i) * width, width, states
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
def fill(given, kept, systems, entered, start, stop, out):
    """Write the rows ``start`` to ``stop - 1`` of every system to the first of the target.

    ``kept`` holds the first ``entered`` tiles already; the others are added to it.
    """
    target, steps, states = pointers(out), given.read.shape[1], given.read.shape[2]
    tiles, width = kept.product.shape[1:]
    memory = _scratch(width, tiles, given.read)
    scratch = pointers(memory)
    for s in range(systems):
        decay, write, read = _of(given.decay, s), _of(given.write, s), _of(given.read, s)
        step, gain, through = _of(given.step, s), _of(given.gain, s), _of(given.feedthrough, s)
        sent, product = _of(kept.sent, s), _of(kept.product, s)
        own, reach = _of(kept.local, s), pointers(_of(kept.reach, s))
        local = pointers(own)
        for tile in range(min(entered, start // TILE), (stop + TILE - 1) // TILE):
            begin, end = tile * TILE, min(steps, (tile + 1) * TILE)
            if tile >= entered:
                some = read[begin:end]
                parts = step[begin:end], write[:, begin:end], gain[begin:end], some
                poles = decay if given.sampled else decay[begin:end]
                load_tile(poles, *parts, given.sampled, width, memory, sent[tile])
                mine = pointers(sent[tile]), pointers(product[tile])
                fold_tile(some, given.before, width, scratch, *mine, local, reach)
                for i in range(end - begin):
                    own[i * TILE + i] += through[begin + i]
            first, last = max(start, begin), min(stop, end)
            if first < last:
                o = (s * target.rows + first - start) * steps
                span = tile, first - begin, last - first
                found = pointers(sent), pointers(product), local, reach
                write_rows(steps, width, states, *span, scratch, *found, target, o)
    arrived()
