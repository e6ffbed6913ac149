"""The checker's exponentials enclose, at any size; against arithmetic of many more digits."""

from fractions import Fraction

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsf.certificates import checker

mpmath.mp.prec = 400
numbers = st.fractions(min_value=-60, max_value=60, max_denominator=10**9)


def exact(value):
    return mpmath.mpf(value.numerator) / value.denominator


@given(numbers)
def test_exponentials_enclose_tightly(x):
    below, above = checker.exp_below(x), checker.exp_above(x)
    value = mpmath.exp(exact(x))
    assert exact(below) <= value <= exact(above)
    assert (above - below) * 2**120 <= above


@given(numbers, numbers)
def test_exponentials_multiply(x, y):
    low = checker.exp_below(x) * checker.exp_below(y)
    high = checker.exp_above(x) * checker.exp_above(y)
    assert low <= checker.exp_above(x + y)
    assert high >= checker.exp_below(x + y)


@given(st.fractions(min_value=-40, max_value=40, max_denominator=10**6))
def test_softplus_is_a_lower_bound_and_close(x):
    below = checker.softplus_below(x)
    value = mpmath.log1p(mpmath.exp(exact(x)))
    assert exact(below) <= value
    assert value - exact(below) <= value * mpmath.mpf(2) ** -20 + mpmath.mpf(2) ** -80


@given(st.fractions(min_value=0, max_value=10**6))
def test_roots_are_upper_bounds(x):
    root = checker.root_above(x)
    assert root * root >= x
    assert (root - Fraction(1, 2**100)) ** 2 <= x or root < Fraction(1, 2**90)


@given(st.fractions(max_denominator=10**30))
def test_rounding_keeps_its_side(x):
    assert checker.down(x) <= x <= checker.up(x)
    assert checker.up(x) - checker.down(x) <= abs(x) * Fraction(1, 2**150)


@pytest.mark.parametrize("x", [0, 1, -1, Fraction(1, 10**40), Fraction(-1, 3)])
def test_special_points(x):
    value = mpmath.exp(exact(Fraction(x)))
    assert exact(checker.exp_below(Fraction(x))) <= value <= exact(checker.exp_above(Fraction(x)))


@given(st.integers(0, 1 << 40))
def test_the_series_encloses_where_nothing_else_is_rounded(part):
    """At dyadic points no rounding of the argument can make up for a missing slack."""
    x = Fraction(part, 1 << 47)
    below, above = checker._exp_small(x)
    value = mpmath.exp(exact(x))
    assert exact(below) < value < exact(above)
    assert above - below < Fraction(1, 1 << 140)
