"""Code that makes patches of an image and mixes them by itself, beside a mixer that is read."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.any_code.test_promise import drawn, inspected, listed

SIDE, WIDTH = 4, 8
WAYS = {
    "total": lambda x: x.cumsum(1),
    "neighbour": lambda x: x + x.roll(1, 1),
    "mean": lambda x: x + x.mean(1, keepdim=True),
    "mean for all": lambda x: x.mean(1, keepdim=True).expand(-1, x.shape[1], -1),
    "largest for all": lambda x: x.amax(1, keepdim=True).repeat(1, x.shape[1], 1),
    "windows": lambda x: functional.avg_pool1d(x.mT, 3, 1, 1).mT,
    "pairs, repeated": lambda x: functional.avg_pool1d(x.mT, 2).repeat_interleave(2, -1).mT,
    "order": lambda x: x.sort(1).values,
    "norm": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1),
}


def by_convolution(model, image):
    return model.filter(image).flatten(2).mT


def by_projection(model, image):
    patches = image.unfold(2, SIDE, SIDE).unfold(3, SIDE, SIDE).permute(0, 2, 3, 1, 4, 5)
    return model.project(patches.flatten(3)).flatten(1, 2)


class Patches(nn.Module):
    def __init__(self, way, make, *, is_before):
        super().__init__()
        self.way, self.make, self.is_before = WAYS[way], make, is_before
        self.filter = nn.Conv2d(3, WIDTH, SIDE, stride=SIDE)
        self.project = nn.Linear(3 * SIDE**2, WIDTH)
        self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, image):
        x = self.make(self, image)
        x = self.way(x) if self.is_before else x
        x = x + self.mix(x, x, x, need_weights=False)[0]
        return x if self.is_before else self.way(x)


@pytest.mark.sampled(count=12)
@pytest.mark.parametrize(
    ("make", "grid"),
    [
        (by_convolution, (3, 4)),
        (by_convolution, (12, 1)),
        (by_convolution, (1, 12)),
        (by_projection, (3, 4)),
    ],
)
@pytest.mark.parametrize("is_before", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("way", WAYS)
def test_what_mixes_patches_where_they_are_made_is_listed(way, is_before, make, grid):
    image = drawn(2, 3, *(SIDE * side for side in grid))
    assert "Patches" in listed(inspected(Patches(way, make, is_before=is_before), image))


@pytest.mark.parametrize("make", [by_convolution, by_projection])
def test_what_mixes_the_queries_of_patches_alone_is_listed(make):
    class Queries(Patches):
        def forward(self, image):
            x = self.make(self, image)
            return x + self.mix(self.way(x), x, x, need_weights=False)[0]

    image = drawn(2, 3, 3 * SIDE, 4 * SIDE)
    assert "Queries" in listed(inspected(Queries("total", make, is_before=True), image))


@pytest.mark.parametrize(
    ("size", "step", "padding"), [(4, 4, 0), (6, 4, 1), (3, 2, 1), (5, 3, 0), (2, 4, 0)]
)
def test_patches_that_share_pixels_are_all_that_a_pixel_moves(size, step, padding):
    class Nothing(Patches):
        """What is summed up over the patches counts for nothing."""

        def forward(self, image):
            x = self.filter(image).flatten(2).mT
            x = x + 0 * x.cumsum(1)
            return x + self.mix(x, x, x, need_weights=False)[0]

    model = Nothing("total", by_convolution, is_before=True)
    model.filter = nn.Conv2d(3, WIDTH, size, step, padding)
    inspection = inspected(model, drawn(2, 3, 12, 16))
    assert [layer.name for layer in inspection] == ["mix"]
    assert not inspection.unsupported


def test_an_attention_among_patches_is_all_of_it():
    class Plain(Patches):
        def forward(self, image):
            x = self.make(self, image)
            return x + self.mix(x, x, x, need_weights=False)[0]

    for make in (by_convolution, by_projection):
        model = Plain("mean", make, is_before=True)
        inspection = inspected(model, drawn(2, 3, 3 * SIDE, 4 * SIDE))
        assert not inspection.unsupported
        assert [layer.name for layer in inspection] == ["mix"]


class Afterwards(nn.Module):
    """A mixer that makes new positions of all tokens, and what mixes these in the code around."""

    def __init__(self, mixes):
        super().__init__()
        self.inp, self.over_tokens = nn.Linear(WIDTH, WIDTH), nn.Linear(12, 12)
        self.mixes = mixes

    def forward(self, x):
        x = torch.tanh(self.over_tokens(self.inp(x).mT).mT)
        return torch.tanh(x + x.roll(1, 1)) @ torch.ones(WIDTH, WIDTH) if self.mixes else x


@pytest.mark.parametrize("mixes", [True, False])
def test_new_positions_of_a_mixer_that_meet_behind_it_are_listed(mixes):
    found = inspected(Afterwards(mixes), drawn(2, 12, WIDTH), tokens=1)
    assert found["over_tokens"].is_exact
    assert ("Afterwards" in listed(found)) is mixes
