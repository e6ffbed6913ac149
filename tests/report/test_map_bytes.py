"""Eight bits: symmetric about zero, within two percent of the scale's root, odd cells apart."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsf.report.views import MASKED, MINUS_INFINITY, NAN, PLUS_INFINITY, ZERO, coded


def decoded(codes, scale):
    level = (codes.astype(float) - 129) / 125
    return level * abs(level) * scale


@given(st.lists(st.floats(-5, 5), min_size=1), st.floats(5, 50))
def test_a_weight_comes_back_to_half_a_level(weights, scale):
    weights = np.array(weights)
    codes = coded(weights, np.zeros(len(weights), dtype=bool), scale)
    root = np.sqrt(np.abs(decoded(codes, scale)))
    assert (np.abs(root - np.sqrt(np.abs(weights))) <= np.sqrt(scale) / 250 + 1e-12).all()
    np.testing.assert_array_equal(coded(-weights, codes == 0, scale) - 129.0, 129.0 - codes)


def test_what_has_no_number_has_a_code_of_its_own():
    weights = np.array([np.nan, np.inf, -np.inf, 0.0, 0.0, 2.0, -2.0])
    masked = np.array([True, True, True, True, False, False, False])
    expected = [NAN, PLUS_INFINITY, MINUS_INFINITY, MASKED, ZERO, 254, 4]
    assert coded(weights, masked, 2.0).tolist() == expected


def test_a_map_of_zeros_has_no_scale():
    assert coded(np.zeros(3), np.zeros(3, dtype=bool), 0.0).tolist() == [ZERO] * 3
