"""Modules of unknown classes are read by the parameters they have, if their numbers agree."""

import re

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.further_structures import FURTHER, FURTHER_DECOYS
from tests.any_code.structures import DECOYS, MODEL, READ, drawn, tokens

ALL, ALL_DECOYS = READ | FURTHER, DECOYS | FURTHER_DECOYS
ONLY_MIXER = {"DiagonalStateSpace", "LRU", "MinGRU", "MinLSTM", "RWKV6", "RWKV7", "S5"}


class Beside(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.known = first, nn.GRU(MODEL, MODEL, batch_first=True)

    def forward(self, x):
        return self.known(x + self.first(x))[0]


@pytest.mark.sampled(count=12)
@pytest.mark.parametrize("checks", ["all", "none"])
@pytest.mark.parametrize("name", ALL)
def test_a_stranger_is_read_as_what_it_is(name, checks):
    kind, mixer = ALL[name]
    module, x = drawn(kind()), tokens()
    inspection = dsf.inspect(Beside(module).eval(), x, checks=checks)
    path = "first.layer" if hasattr(module, "layer") else "first"
    assert [layer.name for layer in inspection] == [path, "known[layer 0]"]
    assert inspection.unsupported == ()
    layer = inspection[path]
    assert type(layer.mixer).__name__ == mixer
    assert layer.formula < 1e-12
    assert layer.is_exact
    with torch.no_grad():
        inner, given = getattr(module, "layer", module), (x,)
        given = module.given(x) if inner is not module else given
        expected = inner.double().map(*(part.double() for part in given))
    torch.testing.assert_close(layer.map(), expected, atol=1e-12, rtol=1e-10)
    assert layer.map().tril(-1).norm() > 0.1 * layer.map().norm()
    if mixer in ONLY_MIXER:
        return
    whole = layer.whole
    torch.testing.assert_close(
        whole.contributions().sum(dim=2) + whole.remainder, whole(whole.given)
    )


@pytest.mark.sampled(count=8)
@pytest.mark.parametrize("checks", ["all", "none"])
@pytest.mark.parametrize("name", ALL_DECOYS)
def test_a_decoy_is_listed_with_what_it_was_tried_as(name, checks):
    kind, title = ALL_DECOYS[name]
    module = drawn(kind())
    path = "first.layer" if hasattr(module, "layer") else "first"
    inspection = dsf.inspect(Beside(module).eval(), tokens(), checks=checks, probe=())
    assert [layer.name for layer in inspection] == ["known[layer 0]"]
    reason = {one.name: one.reason for one in inspection.unsupported}[path]
    assert re.search(rf"It was tried as {title}, off by [\d.e-]+", reason, re.IGNORECASE)
