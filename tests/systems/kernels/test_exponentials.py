"""Exponentials and logarithms of loops against those of NumPy."""

import numba
import numpy as np
import pytest

from dsf.systems.kernels.registers import log_of, power_of_two

TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@numba.vectorize
def logarithm(x):
    return log_of(x)


@numba.vectorize
def power(x):
    return power_of_two(x)


@TYPES
def test_logarithms(dtype):
    info = np.finfo(dtype)
    spread = np.exp(np.linspace(np.log(info.tiny), np.log(info.max) - 1e-3, 20_000)).astype(dtype)
    close = np.linspace(0.5, 2, 20_001).astype(dtype)
    for x in (spread, close):
        expected = np.log(x.astype(np.longdouble))
        assert np.abs(logarithm(x) - expected).max() <= 2 * info.eps * max(
            1, np.abs(expected).max()
        )
    assert np.isfinite(logarithm(dtype(0)))


def test_powers():
    x = np.linspace(-120, 120, 20_001)
    expected = np.exp2(x.astype(np.longdouble))
    assert (np.abs(power(x) - expected) <= 4 * np.finfo(x.dtype).eps * expected).all()
    assert power(0.0) == 1
    assert power(-2000.0) == 0
    with np.errstate(invalid="ignore"):  # nan is compared
        assert np.isnan(power(np.nan))
