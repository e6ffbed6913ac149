"""``2^x - 1`` in single precision by five products: what a slow state of a scan multiplies with.

With its coefficients adapted beforehand, a polynomial of degree six takes three products and seven
sums in place of six of each (Knuth, The Art of Computer Programming, volume 2, section 4.6.4).
Products are what the processor runs out of; sums go beside them. Arguments come in units in which
the highest coefficient is one: as ``UNIT * x``.
"""

from typing import Any, no_type_check

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

# The interval, in units of log 2, on which 2^x - 1 keeps six to seven digits of itself.
LOWEST = -2.4


def _slope(low: float) -> Any:
    """``(2^x - 1) / x`` from ``low`` to zero as coefficients of degree six, the constant first."""

    def slope(x: Any) -> Any:
        return np.expm1(x * np.log(2)) / x

    return Chebyshev.interpolate(slope, 6, domain=[low, 0]).convert(kind=Polynomial).coef


def _adapted(u: Any) -> list[float]:
    """``a`` such that with ``z = (x + a0) x + a1`` and ``w = (x + a2) z + a3``

    the polynomial of coefficients ``u``, the last one being one, is ``(z + a4 + w) w + a5``.
    """
    b, total = Polynomial([0, 1]), (u[5] - 1) / 2
    both = u[4] - total * (total + 1)
    first = both - 2 * b
    sums = u[3] - total * (b + first) - b * (total + 1)
    c = u[2] - total * sums - b * (b + first)
    # Of degree three, so that one of its roots is real.
    b = next(root.real for root in (b * sums + c * first - u[1]).roots() if abs(root.imag) < 1e-9)
    first, sums, c = first(b), sums(b), c(b)
    third = total - first
    second = b - first * third
    return [first, second, third, c - second * third, sums - 2 * c - second, u[0] - c * (sums - c)]


_COEFFICIENTS = _slope(LOWEST)
UNIT = float(_COEFFICIENTS[-1] ** (1 / 7))
K0, K1, K2, K3, K4, K5 = (
    np.float32(a) for a in _adapted(_COEFFICIENTS / UNIT ** np.arange(1.0, 8.0))
)


# Compiled where they are used, each for several numbers at once.


@no_type_check
def lower(x):
    """The first of three steps to ``(2^x - 1) / x``."""
    return (x + K0) * x + K1


@no_type_check
def middle(x, z):
    """The second, from the first."""
    return (x + K2) * z + K3


@no_type_check
def upper(z, w):
    """The last, from both."""
    return ((z + K4) + w) * w + K5
