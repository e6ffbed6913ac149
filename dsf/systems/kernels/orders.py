"""Numbers as integers of the same order, by which the extremes of a long loop are found.

Comparisons of floating-point numbers must not be reordered, since one of them may be nan: a loop
that keeps the largest is not vectorised, nor is anything else in it. With integers all of it is.
"""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel

SIGN, REST = np.int64(63), np.int64(2**63 - 1)
OF_ZERO, OF_INFINITY = np.int64(0), np.int64(0x7FF << 52)


@kernel(inlined=True)
@no_type_check
def order_of(x):
    """An integer, larger for larger numbers; of -0.0 below that of 0.0, of nan beyond all."""
    bits = np.float64(x).view(np.int64)
    return bits ^ ((bits >> SIGN) & REST)


@kernel(inlined=True)
@no_type_check
def number_of(order):
    """The number of this order; 0.0 of both zeros."""
    return np.int64(order ^ ((order >> SIGN) & REST)).view(np.float64) + 0.0
