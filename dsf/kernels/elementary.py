"""Exponentials and logarithms inside loops that go by vectors, as precise as what they get."""

from typing import Any, no_type_check

import numpy as np
from numba import types
from numba.extending import overload

from dsf.kernels.exponentials import (
    MANTISSA,
    MANTISSA_DOUBLE,
    ONE_SINGLE,
    chosen,
    factor_of,
    power_of_two,
)

# What a whole exponent leaves between the square roots of a half and of two.
ROOT, ROOT_DOUBLE = np.int32(0x3F3504F3), np.int64(0x3FE6A09E667F3BCD)
LOG_TWO, LOG_TWO_SINGLE = float(np.log(2)), np.float32(np.log(2))
# atanh(s) / s in powers of s squared
SERIES = tuple(1 / (2 * k + 1) for k in range(11))
S0, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10 = SERIES
T1, T2, T3, T4, T5 = (np.float32(each) for each in SERIES[1:6])
TWO_SINGLE = np.float32(2)


@no_type_check
def two_to(x: Any) -> Any:
    """``2^x``; zero below the smallest number, nan for nan."""
    raise NotImplementedError


@overload(two_to, jit_options={"error_model": "numpy", "fastmath": {"contract"}})
@no_type_check
def _two_to(x):
    if x == types.float32:
        return _two_to_single
    return _two_to_double


@no_type_check
def _two_to_double(x):
    return power_of_two(x)


@no_type_check
def _two_to_single(x):
    is_slow, found = factor_of(x)
    return chosen(is_slow, ONE_SINGLE + found, found)


@no_type_check
def log_of(x: Any) -> Any:
    """The logarithm of a positive number that is not subnormal; any number for zero and nan."""
    raise NotImplementedError


@overload(log_of, jit_options={"error_model": "numpy", "fastmath": {"contract"}})
@no_type_check
def _log_of(x):
    if x == types.float32:
        return _log_single
    return _log_double


@no_type_check
def _log_single(x):
    bits = np.float32(x).view(np.int32)
    whole = np.int32(np.int32(bits - ROOT) >> MANTISSA)
    rest = np.int32(bits - np.int32(whole << MANTISSA)).view(np.float32)
    s = (rest - ONE_SINGLE) / (rest + ONE_SINGLE)
    t = s * s
    series = ONE_SINGLE + t * (T1 + t * (T2 + t * (T3 + t * (T4 + t * T5))))
    return np.float32(whole) * LOG_TWO_SINGLE + TWO_SINGLE * s * series


@no_type_check
def _log_double(x):
    bits = np.float64(x).view(np.int64)
    whole = np.int64(np.int64(bits - ROOT_DOUBLE) >> MANTISSA_DOUBLE)
    rest = np.int64(bits - np.int64(whole << MANTISSA_DOUBLE)).view(np.float64)
    s = (rest - 1.0) / (rest + 1.0)
    t = s * s
    high = S5 + t * (S6 + t * (S7 + t * (S8 + t * (S9 + t * S10))))
    series = S0 + t * (S1 + t * (S2 + t * (S3 + t * (S4 + t * high))))
    return np.float64(whole) * LOG_TWO + 2.0 * s * series
