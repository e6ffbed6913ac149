"""The assertion for tests elsewhere: a layer computes its formula, within its rounding."""

import pytest
import torch

import dsf
from dsf.inspection import RoundingWarning


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_the_assertion_for_tests_elsewhere(factor):
    layer = torch.nn.GRU(3, 4, batch_first=True)
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    if factor == 1.0:
        assert dsf.testing.assert_layer_exact(layer, x)[0].formula < 1e-12
        with pytest.raises(AssertionError, match="above 1e-12"):
            dsf.testing.assert_layer_exact(layer, x, rounding=1e-12)
        return
    layer.register_forward_hook(lambda _m, _i, out: (out[0] * factor, out[1]))
    with pytest.raises(AssertionError, match="differs by 9"):
        dsf.testing.assert_layer_exact(layer, x)


def test_the_assertion_fails_for_a_run_that_is_rounded_too_much():
    layer = torch.nn.GRU(3, 4, batch_first=True)
    layer.register_forward_hook(
        lambda _m, _i, out: out if out[0].dtype is torch.float64 else (out[0] * 1.01, out[1])
    )
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="float32"):
        dsf.testing.assert_layer_exact(layer, x)
    with pytest.warns(RoundingWarning):
        dsf.inspect(layer, x)
