"""The inner loops of the selective scan in single precision, four states of each channel at once.

A decay close to one is applied as ``state + (2^x - 1) state``, and the rounding error of each
update is carried to the next (compensated summation), so that slow states keep their digits. There
is one loop for each range of exponents x = log2(decay):

- ``slow_update`` from ``SLOWEST`` to 0, by the square of the factor for half the exponent;
- ``any_update`` for all exponents.
"""

from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import ZERO, chosen, factor_of, slope_of_power
from dsf.systems.kernels.registers import (
    ahead,
    each,
    lanes,
    load,
    loaded,
    number,
    numbers,
    product,
    product_and_sum,
    put,
    spreads,
    store,
)


@intrinsic
@no_type_check
def prefetched(_context, pointer):
    """Prefetch the cache line of a number into the second-level cache."""

    def generate(context, builder, _signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        asked = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
        reads, near, data = number(0), number(2), number(1)
        builder.call(asked, [builder.bitcast(arguments[0], byte), reads, near, data])
        return context.get_dummy_value()

    return types.void(pointer), generate


BLOCK, GROUP = 32, 4
# The row of a state: state, its rounding error, pole, and padding so that rows do not map to the
# same cache sets. The row of a token: step, drive, response.
STATE, LOST, POLE, ROW = 0, BLOCK, 2 * BLOCK, 3 * BLOCK + 16
STEP, DRIVE, SUM, LINE = 0, BLOCK, 2 * BLOCK, 3 * BLOCK
LOWEST = -2.4  # half of the lowest exponent of ``slow_update``
FASTEST = np.float32(2 * LOWEST)
K0, K1, K2, K3, K4, K5, K6 = (np.float32(c) for c in slope_of_power(6, LOWEST, 0.0))
HALF, TWO = np.float32(0.5), np.float32(2)


# (2^x - 1) / x from LOWEST to 0
_slope = each(lambda x: K0 + x * (K1 + x * (K2 + x * (K3 + x * (K4 + x * (K5 + x * K6))))))
_sum = each(lambda a, b: a + b)
_rounding_error = each(lambda change, new, old: change - (new - old))
_squared_minus_one = each(lambda less: less * (less + TWO))  # (1 + less)² - 1


@kernel(inlined=True)
@no_type_check
def _updated(change, old):
    """``old + change``, and the rounding error of that sum."""
    new = _sum(old, change)
    return new, _rounding_error(change, new, old)


@kernel(inlined=True)
@no_type_check
def _slow(half, old, lost, write, drive):
    """For exponents from ``FASTEST`` to 0: takes half the exponent and squares the factor."""
    less = _squared_minus_one(product(_slope(half), half))
    return _updated(product_and_sum(less, old, product_and_sum(write, drive, lost)), old)


# Whether the decay is close to one, and then decay - 1, else the decay.
_factor_of = each(factor_of.py_func)
_factor = each(lambda found: found[1])
_if_slow = each(lambda found, part: chosen(found[0], part, ZERO))


@kernel(inlined=True)
@no_type_check
def _any(x, old, lost, write, drive):
    """For all exponents. Rounding errors are carried only where the decay is close to one."""
    found = _factor_of(x)
    drives = product_and_sum(write, drive, _if_slow(found, lost))
    return _updated(product_and_sum(_factor(found), old, drives), _if_slow(found, old))


@kernel(inlined=True)
@no_type_check
def _store_rows(cell, at, parts):
    for n in range(GROUP):
        store(cell, n * ROW + at, parts[n])


@kernel(inlined=True)
@no_type_check
def _weighted_sum(weights, states):
    """The sum of four states times their read weights."""
    first = weights[0] * states[0] + weights[1] * states[1]
    return first + (weights[2] * states[2] + weights[3] * states[3])


@kernel()
@no_type_check
def slow_update(cell, tile, count, write, read, states, table, width):
    """Update four states of a block of channels over ``count`` tokens.

    At every token a cache line of ``table`` is prefetched for later tokens. The distance from token
    to token is ``states`` numbers in ``write`` and ``read`` and ``width`` numbers in ``table``.
    """
    for d in range(0, BLOCK, lanes(cell)):
        mine = ahead(cell, d)
        old, lost = loaded(mine, STATE, ROW), loaded(mine, LOST, ROW)
        pole = product(loaded(mine, POLE, ROW), (HALF, HALF, HALF, HALF))
        line, w, r, asked = ahead(tile, d), ahead(write, 0), ahead(read, 0), ahead(table, d)
        for _ in range(count):
            step, drive = load(line, STEP), load(line, DRIVE)
            half = product(pole, (step, step, step, step))
            old, lost = _slow(half, old, lost, spreads(w, 0, 1), (drive, drive, drive, drive))
            store(line, SUM, load(line, SUM) + _weighted_sum(spreads(r, 0, 1), old))
            prefetched(asked)
            line, asked = ahead(line, LINE), ahead(asked, width)
            w, r = ahead(w, states), ahead(r, states)
        _store_rows(mine, STATE, old)
        _store_rows(mine, LOST, lost)


@kernel()
@no_type_check
def any_update(cell, tile, count, write, read, states, _table, _width):
    """The same for all exponents, vectorised by the compiler, with states stored at every token."""
    for _ in range(count):
        w, r = numbers(write, 0, 1), numbers(read, 0, 1)
        for d in range(BLOCK):
            step, drive = number(tile, STEP + d), number(tile, DRIVE + d)
            x = product(numbers(cell, POLE + d, ROW), (step, step, step, step))
            old, lost = numbers(cell, STATE + d, ROW), numbers(cell, LOST + d, ROW)
            new, lost = _any(x, old, lost, w, (drive, drive, drive, drive))
            put(tile, SUM + d, number(tile, SUM + d) + _weighted_sum(r, new))
            for n in range(GROUP):
                put(cell, n * ROW + STATE + d, new[n])
                put(cell, n * ROW + LOST + d, lost[n])
        tile, write, read = ahead(tile, LINE), ahead(write, states), ahead(read, states)
