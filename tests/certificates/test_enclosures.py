"""The checker's exponentials enclose, at any size; against arithmetic of many more digits."""

from fractions import Fraction

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsf.certificates import checker

mp = mpmath.MPContext()  # its own, since other tests set the precision of the shared one
mp.prec = 400
numbers = st.fractions(min_value=-60, max_value=60, max_denominator=10**9)


def exact(value):
    return mp.mpf(value.numerator) / value.denominator


@given(numbers)
def test_exponentials_enclose_tightly(x):
    below, above = checker.exp_below(x), checker.exp_above(x)
    value = mp.exp(exact(x))
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
    value = mp.log1p(mp.exp(exact(x)))
    assert exact(below) <= value
    assert value - exact(below) <= value * mp.mpf(2) ** -20 + mp.mpf(2) ** -80


@given(st.fractions(min_value=-400, max_value=40, max_denominator=10**6))
def test_softplus_is_enclosed_from_above_too(x):
    above = checker.softplus_above(x)
    value = mp.log1p(mp.exp(exact(x)))
    assert value <= exact(above)
    assert exact(above) - value <= value * mp.mpf(2) ** -20 + mp.mpf(2) ** -80


@pytest.mark.parametrize("x", [checker.MAX_EXPONENT, checker.MAX_EXPONENT // 2 + 1, 10**30])
def test_what_is_far_away_keeps_its_side(x):
    x = Fraction(x)
    assert checker.exp_below(-x - checker.MAX_EXPONENT) == 0
    assert (
        0
        < checker.exp_above(-10 * x - checker.MAX_EXPONENT)
        == checker.exp_above(Fraction(-checker.MAX_EXPONENT))
    )
    assert (
        checker.exp_below(x + checker.MAX_EXPONENT)
        == checker.exp_below(Fraction(checker.MAX_EXPONENT))
        > 10**4000
    )
    assert checker.softplus_below(x) == x < checker.softplus_above(x) < x + 1
    with pytest.raises(checker.Rejected, match="too large"):
        checker.exp_above(Fraction(checker.MAX_EXPONENT + 1))


@given(st.fractions(max_denominator=10**30))
def test_rounding_keeps_its_side(x):
    assert checker.down(x) <= x <= checker.up(x)
    assert checker.up(x) - checker.down(x) <= abs(x) * Fraction(1, 2**150)


@pytest.mark.parametrize("x", [0, 1, -1, Fraction(1, 10**40), Fraction(-1, 3)])
def test_special_points(x):
    value = mp.exp(exact(Fraction(x)))
    assert exact(checker.exp_below(Fraction(x))) <= value <= exact(checker.exp_above(Fraction(x)))


@given(st.integers(0, 1 << (checker.WIDE - 8)))
def test_the_series_encloses_in_its_last_unit(part):
    """At points that need no rounding of the argument, only the series can be wrong."""
    below, above = checker.exp_series(part)
    with mp.workprec(600):
        value = mp.exp(mp.ldexp(mp.mpf(part), -checker.WIDE))
        scaled = mp.ldexp(value, checker.WIDE)
        assert below <= scaled < above
    assert above - below < 100
