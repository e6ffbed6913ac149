"""A map is called all of its module only if a replaced token moves no other in another way."""

import math

import pytest
import torch

import dsf
from tests.any_code import modules
from tests.any_code.modules import drawn, tokens

PARTS = {
    "convolution": modules.WithConvolution,
    "running mean": modules.WithRunningMean,
    "shift": modules.WithShift,
    "Fourier transform": modules.WithFourier,
    "mean of all tokens": modules.WithChannelMeans,
}


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "own softmax"])
@pytest.mark.parametrize("name", PARTS)
def test_an_attention_and_something_else_is_a_part(name, is_fused):
    module, x = drawn(PARTS[name](is_fused=is_fused)), tokens()
    inspection = dsf.inspect(module, x)
    layer = inspection[type(module).__name__]
    torch.testing.assert_close(layer.map(), module.weights(x), atol=1e-6, rtol=0)
    assert 0.05 < layer.share < 0.95
    assert not layer.is_exact
    assert "a part" in repr(layer)
    listed = {missed.name: missed.reason for missed in inspection.unsupported}
    assert "only a part of what it does to tokens" in listed[layer.name]
    assert {record["answer"] for record in layer.checks} >= {"a part"}


def test_the_share_is_that_of_what_a_token_moves():
    """Twice the attention beside the same shift has a larger share, and a formula gives it."""

    class Weighted(modules.WithShift):
        factor = 1.0

        def forward(self, x):
            q, k, v = self.parts(x)
            shifted = torch.nn.functional.pad(v, (0, 0, 1, -1))
            return self.o(modules.merged(self.factor * self.mix(q, k, v) + shifted))

    shares = []
    for factor in (0.1, 1.0, 10.0):
        module = drawn(Weighted())
        module.factor = factor
        shares.append(dsf.inspect(module, tokens())[0].share)
    assert shares[0] < shares[1] < shares[2]
    odds = [share / (1 - share) for share in shares]
    assert odds[1] / odds[0] == pytest.approx(10, rel=1e-3)
    assert odds[2] / odds[1] == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "own softmax"])
def test_the_difference_of_two_attentions_is_two_parts(is_fused):
    inspection = dsf.inspect(drawn(modules.Difference(is_fused=is_fused)), tokens())
    assert len(inspection) == 2
    assert not any(layer.is_exact for layer in inspection)
    assert sum(layer.share for layer in inspection) == pytest.approx(1.0)
    (listed,) = inspection.unsupported
    assert "made of 2 attentions together" in listed.reason


def test_checks_can_be_left_out():
    module, x = drawn(modules.WithShift()), tokens()
    inspection = dsf.inspect(module, x, checks="none")
    assert math.isnan(inspection[0].share)
    assert len(inspection.checks) == 0
    assert inspection.unsupported == ()
    with pytest.raises(ValueError, match="checks: must be 'all' or 'none', but it is 'few'"):
        dsf.inspect(module, x, checks="few")


def test_what_was_asked_is_a_table():
    inspection = dsf.inspect(drawn(modules.WithShift()), tokens())
    (record,) = inspection.checks
    assert record["answer"] == "a part"
    assert record["moved"] > 0.01
    assert "joins different tokens" in record["note"]
