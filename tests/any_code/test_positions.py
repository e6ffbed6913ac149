"""Positions of several coordinates are given with the tokens, with or without samples."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import WIDTH, Attention, drawn, tokens

COUNT = 6
COORDINATES = {
    "three without samples": torch.stack([torch.arange(6.0) // k for k in (6, 3, 1)], dim=-1),
    "two without samples": torch.stack([torch.arange(COUNT) % k for k in (3, 4)], dim=-1),
    "two": torch.arange(4.0 * COUNT).reshape(2, COUNT, 2) % 5,
    "one without samples": torch.arange(float(COUNT))[:, None],
    "one": torch.arange(2 * COUNT).reshape(2, COUNT, 1) % COUNT,
}


class Turned(Attention):
    """Attention whose queries and keys are turned by angles of their places."""

    def forward(self, x, angles, condition):
        q, k, v = self.parts(x)
        q, k = (one * angles.cos() + one.roll(1, dims=-1) * angles.sin() for one in (q, k))
        mixed = self.mix(q, k, v).transpose(1, 2).flatten(2)
        return x + condition[:, None] * self.o(mixed)


class Placed(nn.Module):
    """Two attentions that share the angles of all coordinates, one behind another."""

    def __init__(self, *, is_fused, beside=lambda places: places):
        super().__init__()
        self.layers = nn.ModuleList(Turned(is_fused=is_fused) for _ in range(2))
        self.condition, self.beside = nn.Linear(WIDTH, WIDTH), beside

    def forward(self, x, places, condition):
        places = self.beside(places.float())
        few = -(-x.shape[-1] // 4 // places.shape[-1])
        each = [one[..., None] * torch.logspace(0, -1, few) for one in places.unbind(dim=-1)]
        angles = torch.cat(each, dim=-1)[..., : x.shape[-1] // 4]
        angles = angles[:, None] if angles.ndim == 3 else angles
        for layer in self.layers:
            x = layer(x, angles, self.condition(condition))
        return x


def inspected(model, places):
    return dsf.inspect(drawn(model), tokens(2, COUNT, WIDTH), places, tokens(2, WIDTH, seed=2))


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("places", COORDINATES.values(), ids=COORDINATES)
def test_coordinates_of_positions_are_no_places(places, is_fused):
    inspection = inspected(Placed(is_fused=is_fused), places)
    assert not inspection.unsupported
    assert [layer.name for layer in inspection] == ["layers.0", "layers.1"]
    assert all(layer.is_exact and layer.family == "softmax" for layer in inspection)


def among(places):
    """Places relative to the mean of all."""
    return places - places.mean(dim=-2, keepdim=True)


@pytest.mark.parametrize("name", ["three without samples", "two"])
@pytest.mark.parametrize("beside", [among, lambda places: places.cumsum(dim=-2)])
def test_positions_that_meet_are_listed(name, beside):
    assert inspected(Placed(is_fused=True, beside=beside), COORDINATES[name]).unsupported
