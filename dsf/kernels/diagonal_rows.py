"""Rows of maps whose states forget each at its own pace, tile by tile.

A tile of tokens is folded into four matrices; decays are running products in float64 from the
nearest border, so zeros and violent decays are exact. Inner products over the states go through a
small matrix product that keeps four rows in registers.
"""

from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel

TILE, NEAR = 64, 16


@kernel()
@no_type_check
def multiply(left: np.ndarray, right: np.ndarray, rows: int, states: int, out: np.ndarray) -> None:
    """``out = left @ right`` of flat ``rows x states`` and ``states x TILE``, both by fours.

    One array for each matrix and fixed distances between its rows: the compiler sees that nothing
    overlaps. Loops with a stride, or without the first line, are ten times slower.
    """
    if rows < 0 or states < 0:  # tells the compiler that no index wraps around
        return
    for i in range(rows // 4):
        o, l0 = i * (4 * TILE), i * 4 * states
        for n in range(states // 4):
            l1, l2, l3 = l0 + states, l0 + 2 * states, l0 + 3 * states
            a0, b0, c0, d0 = left[l0], left[l0 + 1], left[l0 + 2], left[l0 + 3]
            a1, b1, c1, d1 = left[l1], left[l1 + 1], left[l1 + 2], left[l1 + 3]
            a2, b2, c2, d2 = left[l2], left[l2 + 1], left[l2 + 2], left[l2 + 3]
            a3, b3, c3, d3 = left[l3], left[l3 + 1], left[l3 + 2], left[l3 + 3]
            l0, r = l0 + 4, n * (4 * TILE)
            for j in range(TILE):
                a, b = right[r + j], right[r + TILE + j]
                c, d = right[r + 2 * TILE + j], right[r + 3 * TILE + j]
                s0 = a0 * a + b0 * b + c0 * c + d0 * d
                s1 = a1 * a + b1 * b + c1 * c + d1 * d
                s2 = a2 * a + b2 * b + c2 * c + d2 * d
                s3 = a3 * a + b3 * b + c3 * c + d3 * d
                if n:
                    s0, s1 = s0 + out[o + j], s1 + out[o + TILE + j]
                    s2, s3 = s2 + out[o + 2 * TILE + j], s3 + out[o + 3 * TILE + j]
                out[o + j], out[o + TILE + j] = s0, s1
                out[o + 2 * TILE + j], out[o + 3 * TILE + j] = s2, s3


@kernel()
@no_type_check
def after(
    decay: np.ndarray,
    write: np.ndarray,
    first: int,
    last: int,
    sent: np.ndarray,
    product: np.ndarray,
) -> None:
    """Every write times the decays behind it, before ``last``; the product of all decays."""
    states = decay.shape[1]
    product[:] = 1.0
    for j in range(last - 1, first - 1, -1):
        for n in range(states):
            sent[n * TILE + j] = product[n] * write[j, n]
            product[n] *= decay[j, n]


@kernel()
@no_type_check
def upto(
    decay: np.ndarray, read: np.ndarray, first: int, last: int, before: bool, reach: np.ndarray
) -> None:
    """Every read times the decays from ``first`` up to it, its own included unless ``before``."""
    states = decay.shape[1]
    running = np.ones(states)
    for i in range(first, last):
        for n in range(states):
            kept = running[n] * decay[i, n]
            reach[(i - first) * states + n] = read[i, n] * (running[n] if before else kept)
            running[n] = kept


@kernel(reorders=True)
@no_type_check
def nearest(
    decay: np.ndarray,
    write: np.ndarray,
    read: np.ndarray,
    first: int,
    last: int,
    before: bool,
    out: np.ndarray,
) -> None:
    """The map of a few tokens by themselves: what each wrote, carried down the rows."""
    states = decay.shape[1]
    held = np.empty(states, dtype=out.dtype)
    for j in range(first, last):
        for n in range(states):
            held[n] = write[j, n]
        for i in range(j + before, last):
            seen = out.dtype.type(0)
            if before:
                for n in range(states):
                    seen += read[i, n] * held[n]
            if before or i > j:
                for n in range(states):
                    held[n] *= decay[i, n]
            if not before:
                for n in range(states):
                    seen += read[i, n] * held[n]
            out[(i - first) * TILE + j] = seen


@kernel()
@no_type_check
def fold_tile(
    decay: np.ndarray,
    write: np.ndarray,
    read: np.ndarray,
    before: bool,
    local: np.ndarray,
    reach: np.ndarray,
    sent: np.ndarray,
    product: np.ndarray,
) -> None:
    """The four matrices of one full tile for every system: see ``dsf.evaluate.panel``."""
    states = decay.shape[2]
    start, passed = np.empty(NEAR * states, local.dtype), np.empty(states)
    for s in range(decay.shape[0]):
        after(decay[s], write[s], 0, TILE, sent[s], product[s])
        upto(decay[s], read[s], 0, TILE, before, reach[s])
        close = np.zeros(states * TILE, local.dtype)
        for first in range(0, TILE, NEAR):
            block = local[s, first * TILE : (first + NEAR) * TILE]
            upto(decay[s], read[s], first, first + NEAR, before, start)
            multiply(start, close, NEAR, states, block)
            for i in range(NEAR):  # no nan from a product with nothing
                for j in range(i * TILE + first, (i + 1) * TILE):
                    block[j] = 0
            nearest(decay[s], write[s], read[s], first, first + NEAR, before, block)
            after(decay[s], write[s], first, first + NEAR, close, passed)
            for n in range(states):
                for j in range(n * TILE, n * TILE + first):
                    close[j] *= passed[n]


@kernel()
@no_type_check
def read_kept(
    reach: np.ndarray,
    product: np.ndarray,
    sent: np.ndarray,
    tile: int,
    skip: int,
    rows: int,
    out: np.ndarray,
    top: int,
) -> None:
    """What ``rows`` rows of ``tile``, behind its first ``skip``, read from all tiles before it.

    Goes to the rows of ``out`` from ``top`` on.
    """
    states = product.shape[2]
    fours = rows + -rows % 4
    scaled, block = np.zeros(fours * states, reach.dtype), np.empty(fours * TILE, reach.dtype)
    gap = np.empty(states)
    for s in range(reach.shape[0]):
        gap[:] = 1.0
        for earlier in range(tile - 1, -1, -1):
            for i in range(rows):
                for n in range(states):
                    scaled[i * states + n] = reach[s, (skip + i) * states + n] * gap[n]
            multiply(scaled, sent[s, earlier], fours, states, block)
            for i in range(rows):
                row = out[s, top + i, earlier * TILE : (earlier + 1) * TILE]
                for j in range(TILE):
                    row[j] = block[i * TILE + j]
            for n in range(states):
                gap[n] *= product[s, earlier, n]


@kernel()
@no_type_check
def copy_own(local: np.ndarray, tile: int, skip: int, rows: int, out: np.ndarray, top: int) -> None:
    """``rows`` rows of ``tile``, behind its first ``skip``, in the columns of the tile itself."""
    width = min(TILE, out.shape[2] - tile * TILE)
    for s in range(local.shape[0]):
        for i in range(rows):
            row = out[s, top + i, tile * TILE : tile * TILE + width]
            for j in range(width):
                row[j] = local[s, (skip + i) * TILE + j]
