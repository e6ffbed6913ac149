"""Powers of two inside compiled loops, several numbers at once: no call, no branch.

The exponent is split into a whole number, which goes into the bits of the exponent, and a rest of
at most a half, for which a polynomial stands. Arguments are in units of log 2. What is below the
smallest number is exactly zero, what is above the largest is infinite, nan stays nan.
"""

from typing import Any, no_type_check

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

from dsf.kernels.compiling import kernel

ZERO, ONE_SINGLE = np.float32(0), np.float32(1)
# Added and taken away again they round to a whole number, which their last bits then hold.
ROUNDER, ROUNDER_DOUBLE = np.float32(1.5 * 2**23), 1.5 * 2**52
ONE, ONE_DOUBLE = np.int32(0x3F800000), np.int64(0x3FF << 52)
LEAST, MOST = np.float32(-127), np.float32(128)
LEAST_DOUBLE, MOST_DOUBLE = -1023.0, 1024.0
MANTISSA, MANTISSA_DOUBLE = np.int32(23), np.int64(52)


def _slope(degree: int, low: float, high: float) -> tuple[Any, ...]:
    """``(2^x - 1) / x`` from ``low`` to ``high`` as a polynomial, the constant first."""

    def slope(x: Any) -> Any:
        at_zero = np.abs(x) < 1e-12
        return np.where(at_zero, np.log(2), np.expm1(x * np.log(2)) / np.where(at_zero, 1, x))

    fit = Chebyshev.interpolate(slope, degree, domain=[low, high])
    return tuple(fit.convert(kind=Polynomial).coef)


A0, A1, A2, A3, A4, A5 = (np.float32(c) for c in _slope(5, -0.5, 0.5))
C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10 = (float(c) for c in _slope(10, -0.5, 0.5))


@intrinsic
@no_type_check
def chosen(_context, _condition, yes, no):
    """``yes`` where the condition holds, else ``no``: an instruction, where ``if`` is a branch."""

    def generate(_context, builder, _signature, arguments):
        return builder.select(*arguments)

    return yes(types.boolean, yes, no), generate


@kernel(inlined=True)
@no_type_check
def factor_of(x):
    """Whether ``x`` rounds to zero; then ``2^x - 1`` to seven digits of itself, else ``2^x``."""
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
@no_type_check
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
