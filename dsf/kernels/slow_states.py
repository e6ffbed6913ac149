"""One token of a block of channels in single precision, four states of each channel at once.

A decay near one would lose what distinguishes it from one, and a slow sum would lose digits at
every token. So slow states take ``decay - 1`` and keep what rounding lost (Kahan's sum).
"""

from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel
from dsf.kernels.exponentials import ZERO, chosen, factor_of, far_less_one, less_one

BLOCK, GROUP = 64, 4
# A row of a cell: state, what rounding lost, pole. A row of a tile: step, drive, response.
STATE, LOST, POLE, ROW = 0, BLOCK, 2 * BLOCK, 3 * BLOCK
STEP, DRIVE, SUM = 0, BLOCK, 2 * BLOCK
# Unsigned, so that the compiler knows that no index wraps around.
U1, U2, U3, U_BLOCK, U_POLE, U_ROW = (np.uint64(n) for n in (1, 2, 3, BLOCK, POLE, ROW))
# Exponents, in units of log 2, down to which 2^x - 1 has a shorter form.
GENTLE, LIVELY = np.float32(-2), np.float32(-4)


@kernel()
@no_type_check
def _slow_entry(less, old, lost, drive):
    """One update from ``decay - 1``: the state, and what its rounding lost."""
    change = less * old + (drive + lost)
    new = old + change
    return new, change - (new - old)


@kernel()
@no_type_check
def _gentle(x, old, lost, drive):
    """For exponents from -2 to 0."""
    return _slow_entry(less_one(x), old, lost, drive)


@kernel()
@no_type_check
def _lively(x, old, lost, drive):
    """For exponents from -4 to 0."""
    return _slow_entry(far_less_one(x), old, lost, drive)


@kernel()
@no_type_check
def _any(x, old, lost, drive):
    """For all exponents: where a state forgets most of itself, it is no sum to keep digits of."""
    slow, factor = factor_of(x)
    kept = chosen(slow, old, ZERO)
    change = factor * old + (drive + chosen(slow, lost, ZERO))
    new = kept + change
    return new, change - (new - kept)


@no_type_check
def _updating(entry):
    """A loop that updates four states of every channel; their sum stays in a register."""

    @kernel()
    @no_type_check
    def update(cell, at, tile, token, write, read, n):
        w0, w1, w2, w3 = write[n], write[n + U1], write[n + U2], write[n + U3]
        r0, r1, r2, r3 = read[n], read[n + U1], read[n + U2], read[n + U3]
        for d in range(U_BLOCK):
            step, drive = tile[token + d], tile[token + U_BLOCK + d]
            k = at + d
            h0, l0 = entry(step * cell[k + U_POLE], cell[k], cell[k + U_BLOCK], w0 * drive)
            cell[k], cell[k + U_BLOCK] = h0, l0
            k += U_ROW
            h1, l1 = entry(step * cell[k + U_POLE], cell[k], cell[k + U_BLOCK], w1 * drive)
            cell[k], cell[k + U_BLOCK] = h1, l1
            k += U_ROW
            h2, l2 = entry(step * cell[k + U_POLE], cell[k], cell[k + U_BLOCK], w2 * drive)
            cell[k], cell[k + U_BLOCK] = h2, l2
            k += U_ROW
            h3, l3 = entry(step * cell[k + U_POLE], cell[k], cell[k + U_BLOCK], w3 * drive)
            cell[k], cell[k + U_BLOCK] = h3, l3
            tile[token + U_POLE + d] += r0 * h0 + r1 * h1 + (r2 * h2 + r3 * h3)

    return update


gentle_update, lively_update, any_update = map(_updating, (_gentle, _lively, _any))
