"""One token of a block of channels in single precision, four states of each channel at once.

A decay near one would lose what distinguishes it from one, and a slow sum would lose digits at
every token. So slow states take ``decay - 1`` and keep what rounding lost (Kahan's sum).

Every operation is written for four states before the next one: a processor looks ahead a few dozen
instructions, less than two states one after the other, and each waits for the one before.
"""

from typing import no_type_check

import numpy as np

from dsf.kernels.adapted import (
    LOWEST,
    LOWEST_OF_FOUR,
    UNIT,
    UNIT_OF_FOUR,
    inner,
    lower,
    middle,
    outer,
    upper,
)
from dsf.kernels.compiling import kernel
from dsf.kernels.exponentials import ONE_SINGLE, ZERO, chosen, factor_of

BLOCK, GROUP = 32, 4
# A row of a cell: state, what rounding lost, pole, and room that keeps rows off each other's
# places in the cache. The row of a token: step, drive, response.
STATE, LOST, POLE, ROW = 0, BLOCK, 2 * BLOCK, 3 * BLOCK + 16
STEP, DRIVE, SUM = 0, BLOCK, 2 * BLOCK
# Unsigned, so that the compiler knows that no index wraps around.
U1, U2, U3, U_BLOCK, U_POLE = (np.uint64(n) for n in (1, 2, 3, BLOCK, POLE))
U_ROW, TWO_ROWS, THREE_ROWS = (np.uint64(n * ROW) for n in (1, 2, 3))
# Exponents, in units of the polynomial, down to which 2^x - 1 has a shorter form.
MILD, GENTLE, LIVELY = (np.float32(low * UNIT) for low in (LOWEST_OF_FOUR, LOWEST, 2 * LOWEST))
PER_UNIT, TO_FOUR = np.float32(1 / UNIT), np.float32(UNIT_OF_FOUR / UNIT)
HALF, TWO = np.float32(0.5), np.float32(2)


@no_type_check
def _each(operation):
    """An operation on the numbers of four states."""
    of = kernel(inlined=True)(operation)

    def on_one(a):
        return of(a[0]), of(a[1]), of(a[2]), of(a[3])

    def on_two(a, b):
        return of(a[0], b[0]), of(a[1], b[1]), of(a[2], b[2]), of(a[3], b[3])

    def on_three(a, b, c):
        first, second = of(a[0], b[0], c[0]), of(a[1], b[1], c[1])
        return first, second, of(a[2], b[2], c[2]), of(a[3], b[3], c[3])

    made = (on_one, on_two, on_three)[operation.__code__.co_argcount - 1]
    return kernel(inlined=True)(made)


_lower, _middle, _upper = _each(lower), _each(middle), _each(upper)
_inner, _outer = _each(inner), _each(outer)
_sum, _product = _each(lambda a, b: a + b), _each(lambda a, b: a * b)
_product_and_sum = _each(lambda a, b, c: a * b + c)
_lost = _each(lambda change, new, old: change - (new - old))
_squared = _each(lambda less: less * (less + TWO))


@kernel(inlined=True)
@no_type_check
def _slope(x):
    z = _lower(x)
    return _upper(z, _middle(x, z))


@kernel(inlined=True)
@no_type_check
def _moved(change, old):
    """The states, and what their rounding lost."""
    new = _sum(old, change)
    return new, _lost(change, new, old)


@kernel(inlined=True)
@no_type_check
def _mild(x, old, lost, write, drive):
    """For exponents from ``MILD`` to 0, in units of degree four."""
    slope, drives = _outer(x, _inner(x)), _product_and_sum(write, drive, lost)
    return _moved(_product_and_sum(slope, _product(x, old), drives), old)


@kernel(inlined=True)
@no_type_check
def _gentle(x, old, lost, write, drive):
    """For exponents from ``GENTLE`` to 0."""
    drives = _product_and_sum(write, drive, lost)
    return _moved(_product_and_sum(_slope(x), _product(x, old), drives), old)


@kernel(inlined=True)
@no_type_check
def _lively(half, old, lost, write, drive):
    """For exponents from ``LIVELY`` to 0, of which half is given and the power squared."""
    less = _squared(_product(_slope(half), half))
    return _moved(_product_and_sum(less, old, _product_and_sum(write, drive, lost)), old)


# Whether a factor has one taken away, and the factor.
_factor_of = _each(factor_of.py_func)
_factor = _each(lambda found: found[1])
_if_slow = _each(lambda found, part: chosen(found[0], part, ZERO))


@kernel(inlined=True)
@no_type_check
def _any(x, old, lost, write, drive):
    """For all exponents: where a state forgets most of itself, it is no sum to keep digits of."""
    found = _factor_of(x)
    drives = _product_and_sum(write, drive, _if_slow(found, lost))
    return _moved(_product_and_sum(_factor(found), old, drives), _if_slow(found, old))


@no_type_check
def _updating(entry, share=ONE_SINGLE):
    """A loop that updates four states of every channel; their sum stays in a register.

    ``entry`` takes exponents in units of the polynomial, times ``share``.
    """

    @kernel(inlined=True)
    @no_type_check
    def update(cell, at, row, write, read, n):
        w = write[n], write[n + U1], write[n + U2], write[n + U3]
        r0, r1, r2, r3 = read[n], read[n + U1], read[n + U2], read[n + U3]
        for d in range(U_BLOCK):
            step, drive = row[d] * share, row[U_BLOCK + d]
            k0 = at + d
            k1, k2, k3 = k0 + U_ROW, k0 + TWO_ROWS, k0 + THREE_ROWS
            pole = cell[k0 + U_POLE], cell[k1 + U_POLE], cell[k2 + U_POLE], cell[k3 + U_POLE]
            lost = cell[k0 + U_BLOCK], cell[k1 + U_BLOCK], cell[k2 + U_BLOCK], cell[k3 + U_BLOCK]
            x = _product((step, step, step, step), pole)
            old, drives = (cell[k0], cell[k1], cell[k2], cell[k3]), (drive, drive, drive, drive)
            new, lost = entry(x, old, lost, w, drives)
            row[U_POLE + d] += r0 * new[0] + r1 * new[1] + (r2 * new[2] + r3 * new[3])
            cell[k0], cell[k1], cell[k2], cell[k3] = new
            cell[k0 + U_BLOCK], cell[k1 + U_BLOCK] = lost[0], lost[1]
            cell[k2 + U_BLOCK], cell[k3 + U_BLOCK] = lost[2], lost[3]

    return update


mild_update = _updating(_mild, TO_FOUR)
gentle_update = _updating(_gentle)
lively_update = _updating(_lively, HALF)
any_update = _updating(_any, PER_UNIT)
