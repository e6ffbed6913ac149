"""Exponentials and logarithms for compiled loops, without calls or branches, so they vectorise.

- ``chosen``: a conditional value without a branch.
- ``factor_of`` (single precision), ``power_of_two`` (double precision): 2^x.
- ``log_of``: the natural logarithm.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic, overload
from numpy.polynomial import Chebyshev, Polynomial

from dsf.systems.kernels.compiling import kernel

ZERO, ONE_SINGLE = np.float32(0), np.float32(1)
# Adding such a number rounds to an integer, which is then in the last bits of the sum.
ROUNDER, ROUNDER_DOUBLE = np.float32(1.5 * 2**23), 1.5 * 2**52
ONE, ONE_DOUBLE = np.int32(0x3F800000), np.int64(0x3FF << 52)
LEAST, MOST = np.float32(-127), np.float32(128)
LEAST_DOUBLE, MOST_DOUBLE = -1023.0, 1024.0
MANTISSA, MANTISSA_DOUBLE = np.int32(23), np.int64(52)


def slope_of_power(degree: int, low: float, high: float) -> tuple[Any, ...]:
    """``(2^x - 1) / x`` from ``low`` to ``high`` as a polynomial, the constant first."""

    def slope(x: Any) -> Any:
        at_zero = np.abs(x) < 1e-12
        return np.where(at_zero, np.log(2), np.expm1(x * np.log(2)) / np.where(at_zero, 1, x))

    fit = Chebyshev.interpolate(slope, degree, domain=[low, high])
    return tuple(fit.convert(kind=Polynomial).coef)


A0, A1, A2, A3, A4, A5 = (np.float32(c) for c in slope_of_power(5, -0.5, 0.5))
C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10 = (float(c) for c in slope_of_power(10, -0.5, 0.5))


@intrinsic
def chosen(_context, _condition, yes, no):
    """``yes`` if the condition holds, else ``no``, as a select instruction instead of a branch."""

    def generate(_context, builder, _signature, arguments):
        return builder.select(*arguments)

    return yes(types.boolean, yes, no), generate


@kernel(inlined=True)
def factor_of(x):
    """Whether ``x`` rounds to zero, and in that case ``2^x - 1`` to seven digits, else ``2^x``."""
    x = chosen(x < LEAST, LEAST, x)
    x = chosen(x > MOST, MOST, x)
    rounded = np.float32(x + ROUNDER)
    whole = rounded - ROUNDER
    rest = x - whole
    slope = A0 + rest * (A1 + rest * (A2 + rest * (A3 + rest * (A4 + rest * A5))))
    less = rest * slope
    power = np.int32((rounded.view(np.int32) << MANTISSA) + ONE).view(np.float32)
    is_slow = whole == ZERO
    return is_slow, chosen(is_slow, less, power * (ONE_SINGLE + less))


@kernel()
def power_of_two(x):
    """``2^x`` in double precision, to sixteen digits."""
    x = chosen(x < LEAST_DOUBLE, LEAST_DOUBLE, x)
    x = chosen(x > MOST_DOUBLE, MOST_DOUBLE, x)
    rounded = np.float64(x + ROUNDER_DOUBLE)
    rest = x - (rounded - ROUNDER_DOUBLE)
    high = C5 + rest * (C6 + rest * (C7 + rest * (C8 + rest * (C9 + rest * C10))))
    slope = C0 + rest * (C1 + rest * (C2 + rest * (C3 + rest * (C4 + rest * high))))
    power = np.int64((rounded.view(np.int64) << MANTISSA_DOUBLE) + ONE_DOUBLE).view(np.float64)
    return power * (1.0 + rest * slope)


# Bits of sqrt(1/2): mantissas are reduced to the interval from sqrt(1/2) to sqrt(2).
ROOT, ROOT_DOUBLE = np.int32(0x3F3504F3), np.int64(0x3FE6A09E667F3BCD)
LOG_TWO, LOG_TWO_SINGLE = float(np.log(2)), np.float32(np.log(2))
# coefficients of atanh(s) / s as a series in s²
SERIES = tuple(1 / (2 * k + 1) for k in range(11))
S0, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10 = SERIES
T1, T2, T3, T4, T5 = (np.float32(each) for each in SERIES[1:6])
TWO_SINGLE = np.float32(2)


def log_of(x: Any) -> Any:
    """The natural logarithm of a positive normal number; some number for zero and nan."""
    raise NotImplementedError


@overload(log_of, jit_options={"error_model": "numpy", "fastmath": {"contract"}})
def _log_of(x):
    if x == types.float32:
        return _log_single
    return _log_double


def _log_single(x):
    bits = np.float32(x).view(np.int32)
    whole = np.int32(np.int32(bits - ROOT) >> MANTISSA)
    rest = np.int32(bits - np.int32(whole << MANTISSA)).view(np.float32)
    s = (rest - ONE_SINGLE) / (rest + ONE_SINGLE)
    t = s * s
    series = ONE_SINGLE + t * (T1 + t * (T2 + t * (T3 + t * (T4 + t * T5))))
    return np.float32(whole) * LOG_TWO_SINGLE + TWO_SINGLE * s * series


def _log_double(x):
    bits = np.float64(x).view(np.int64)
    whole = np.int64(np.int64(bits - ROOT_DOUBLE) >> MANTISSA_DOUBLE)
    rest = np.int64(bits - np.int64(whole << MANTISSA_DOUBLE)).view(np.float64)
    s = (rest - 1.0) / (rest + 1.0)
    t = s * s
    high = S5 + t * (S6 + t * (S7 + t * (S8 + t * (S9 + t * S10))))
    series = S0 + t * (S1 + t * (S2 + t * (S3 + t * (S4 + t * high))))
    return np.float64(whole) * LOG_TWO + 2.0 * s * series
