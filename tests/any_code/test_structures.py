"""Modules of unknown classes are read by the parameters they have, if their numbers agree."""

import re

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.structures import DECOYS, MODEL, READ, drawn, tokens


class Beside(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.known = first, nn.GRU(MODEL, MODEL, batch_first=True)

    def forward(self, x):
        return self.known(x + self.first(x))[0]


@pytest.mark.parametrize("checks", ["all", "none"])
@pytest.mark.parametrize("name", READ)
def test_a_stranger_is_read_as_what_it_is(name, checks):
    kind, mixer = READ[name]
    module, x = drawn(kind()), tokens()
    inspection = dsf.inspect(Beside(module).eval(), x, checks=checks)
    assert [layer.name for layer in inspection] == ["first", "known[layer 0]"]
    assert inspection.unsupported == ()
    layer = inspection["first"]
    assert type(layer.mixer).__name__ == mixer
    assert layer.formula < 1e-12
    assert layer.is_exact
    with torch.no_grad():
        expected = module.double().map(x.double())
    torch.testing.assert_close(layer.map(), expected, atol=1e-12, rtol=1e-10)
    assert layer.map().tril(-1).norm() > 0.1 * layer.map().norm()
    if mixer == "MinGRU":  # only the mixer is known
        return
    whole = layer.whole
    torch.testing.assert_close(
        whole.contributions().sum(dim=2) + whole.remainder, whole(whole.given)
    )


@pytest.mark.parametrize("checks", ["all", "none"])
@pytest.mark.parametrize("name", DECOYS)
def test_a_decoy_is_listed_with_what_it_was_tried_as(name, checks):
    kind, title = DECOYS[name]
    inspection = dsf.inspect(Beside(drawn(kind())).eval(), tokens(), checks=checks, probe=())
    assert [layer.name for layer in inspection] == ["known[layer 0]"]
    reason = {one.name: one.reason for one in inspection.unsupported}["first"]
    assert re.search(rf"It was tried as {title}, off by [\d.e-]+", reason, re.IGNORECASE)
