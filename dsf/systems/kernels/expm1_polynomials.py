"""``2^x - 1`` in single precision with few multiplications, for decays close to one.

With adapted coefficients, polynomials of degree four and six take two and three products instead of
four and six, and four or seven sums (Knuth, The Art of Computer Programming, volume 2, section
4.6.4). Multiplications limit the speed of the loop; additions overlap with them. Arguments are in
units in which the highest coefficient is one, ``UNIT * x``.
"""

from typing import Any, no_type_check

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

# Smallest x for which degree six and four give 2^x - 1 with six to seven correct digits.
LOWEST, LOWEST_OF_FOUR = -2.4, -0.6


def _slope(degree: int, low: float) -> tuple[float, Any]:
    """A polynomial for ``(2^x - 1) / x`` from ``low`` to zero: its unit and coefficients.

    The constant coefficient comes first.
    """

    def slope(x: Any) -> Any:
        return np.expm1(x * np.log(2)) / x

    fit: Any = Chebyshev.interpolate(slope, degree, domain=[low, 0]).convert(kind=Polynomial).coef
    unit = float(fit[-1] ** (1 / (degree + 1)))
    return unit, fit / unit ** np.arange(1.0, degree + 2)


def _adapted_four(u: Any) -> list[float]:
    """``a`` such that with ``y = (x + a0) x + a1``

    the polynomial of coefficients ``u``, the last one being one, is ``(y + x + a2) y + a3``.
    """
    first = (u[3] - 1) / 2
    both = u[2] - first * (first + 1)
    second = u[1] - first * both
    third = both - 2 * second
    return [first, second, third, u[0] - second * (second + third)]


def _adapted_six(u: Any) -> list[float]:
    """``a`` such that with ``z = (x + a0) x + a1`` and ``w = (x + a2) z + a3``

    the polynomial of coefficients ``u``, the last one being one, is ``(z + a4 + w) w + a5``.
    """
    b, total = Polynomial([0, 1]), (u[5] - 1) / 2
    both = u[4] - total * (total + 1)
    first = both - 2 * b
    sums = u[3] - total * (b + first) - b * (total + 1)
    c = u[2] - total * sums - b * (b + first)
    # a cubic equation, which has a real root
    b = next(root.real for root in (b * sums + c * first - u[1]).roots() if abs(root.imag) < 1e-9)
    first, sums, c = first(b), sums(b), c(b)
    third = total - first
    second = b - first * third
    return [first, second, third, c - second * third, sums - 2 * c - second, u[0] - c * (sums - c)]


UNIT, _SIX = _slope(6, LOWEST)
UNIT_OF_FOUR, _FOUR = _slope(4, LOWEST_OF_FOUR)
K0, K1, K2, K3, K4, K5 = (np.float32(a) for a in _adapted_six(_SIX))
F0, F1, F2, F3 = (np.float32(a) for a in _adapted_four(_FOUR))

# The steps of the evaluation. They are compiled where they are used, on several numbers at once.


@no_type_check
def lower(x):
    """The first of three steps to ``(2^x - 1) / x`` by the polynomial of degree six."""
    return (x + K0) * x + K1


@no_type_check
def middle(x, z):
    """The second step, from the result ``z`` of the first."""
    return (x + K2) * z + K3


@no_type_check
def upper(z, w):
    """The last step, from the results of both."""
    return ((z + K4) + w) * w + K5


@no_type_check
def inner(x):
    """The first of two steps to ``(2^x - 1) / x`` by the polynomial of degree four."""
    return (x + F0) * x + F1


@no_type_check
def outer(x, y):
    """The last step, from the result ``y`` of the first."""
    return ((y + x) + F2) * y + F3
