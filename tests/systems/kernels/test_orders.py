"""Numbers and the integers of the same order: every number comes back, and in its place."""

import math

import numpy as np

from dsf.systems.kernels.scalar_tiles import OF_INFINITY, OF_ZERO, number_of, order_of

ASCENDING = [
    -math.inf,
    -1e308,
    -2.5,
    -2.4999999999999996,
    -1e-310,
    0.0,
    5e-324,
    1.0,
    7e10,
    math.inf,
]


def test_orders_ascend_like_their_numbers():
    orders = [order_of(each) for each in ASCENDING]
    assert orders == sorted(orders)
    assert len(set(orders)) == len(orders)
    assert (order_of(0.0), order_of(math.inf)) == (OF_ZERO, OF_INFINITY)


def test_every_number_comes_back_and_no_zero_is_negative():
    assert [number_of(order_of(each)) for each in ASCENDING] == ASCENDING
    assert math.copysign(1, number_of(order_of(-0.0))) == 1
    assert order_of(-0.0) < order_of(0.0)


def test_nan_is_beyond_all_and_single_precision_is_taken():
    assert math.isnan(number_of(order_of(math.nan)))
    assert order_of(math.nan) > OF_INFINITY
    assert number_of(order_of(np.float32(-1.5))) == -1.5
