"""Tokens that meet where the replaced one does not come: other tokens, samples or heads."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import SIZE, WIDTH, Attention, drawn, merged, tokens


class Interleaved(nn.Module):
    """Linear attention among tokens with even numbers, and among those with odd ones."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        output = torch.zeros_like(x)
        for first in range(2):
            part = x[:, first::2]
            output[:, first::2] = self.q(part) @ (self.k(part).mT @ self.v(part)) / WIDTH
        return output


class OneHalfEach(Attention):
    """Attention among one half of the tokens, something else among the other half."""

    def __init__(self, beside, is_first):
        super().__init__()
        self.beside, self.is_first = beside, is_first

    def forward(self, x):
        one, other = x.chunk(2, dim=1) if self.is_first else reversed(x.chunk(2, dim=1))
        q, k, v = self.parts(one)
        one = self.o(merged((q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v))
        other = self.beside(self.v(other))
        return torch.cat([one, other] if self.is_first else [other, one], dim=1)


class OfSamples(Interleaved):
    """Attention of one sample after another, without an axis of samples."""

    def forward(self, x):
        scores = [self.q(sample) @ self.k(sample).mT for sample in x]
        return torch.stack(
            [one.softmax(dim=-1) @ self.v(sample) for one, sample in zip(scores, x, strict=True)]
        )


class OneAfterAnother(nn.Module):
    """Heads in a loop with projections of their own, of which one is larger than the others."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 3 * SIZE) for _ in range(3))

    def forward(self, x):
        heads = []
        for size, project in zip((0.1, 2.0, 0.1), self.heads, strict=True):
            q, k, v = project(x).chunk(3, dim=-1)
            heads.append(size * ((q @ k.mT).softmax(dim=-1) @ v))
        return torch.cat(heads, dim=-1)


def running_mean(x):
    return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1).to(x)[:, None]


def neighbours(x):
    return x + 0.5 * x.flip(1)


FEW = 6
"""Tokens, as single ones are probed."""


def is_all(model, x):
    """Whether the inspection says that its maps are all that a model does to tokens."""
    try:
        return not dsf.inspect(model, x).unsupported
    except dsf.inspection.NothingCapturedError:
        return False


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_of_some_heads_is_not_all(dtype):
    assert not is_all(drawn(OneAfterAnother()).to(dtype), tokens(2, FEW, WIDTH).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_of_every_second_token_is_not_all(dtype):
    """What a loop does to even and to odd tokens is read as one map, or listed."""
    inspection = dsf.inspect(drawn(Interleaved()).to(dtype), tokens(2, FEW, WIDTH).to(dtype))
    if not inspection.unsupported:
        (layer,) = inspection
        places = torch.arange(FEW)
        reads = layer.map().abs().flatten(0, -3).amax(dim=0) > 0
        assert torch.equal(reads, (places[:, None] - places) % 2 == 0)


def test_a_map_of_one_sample_is_not_all():
    (layer,) = dsf.inspect(drawn(OfSamples()), tokens(3, FEW, WIDTH))
    assert layer.is_exact
    assert layer.map().shape[0] == 3


@pytest.mark.sampled
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("beside", [running_mean, neighbours])
def test_other_tokens_than_those_of_an_attention_meet(beside, is_first):
    """The attention alone is not all; a map of both halves holds what the other one does."""
    model, x = drawn(OneHalfEach(beside, is_first)), tokens(2, 2 * FEW, WIDTH)
    if not is_all(model, x):
        return
    (layer,) = dsf.inspect(model, x)
    half = slice(FEW, None) if is_first else slice(FEW)
    between = beside(torch.eye(FEW, dtype=torch.float64)[None])[0]
    expected = torch.einsum("oi,ts->oits", model.v.weight.double(), between)
    found = layer.map()[..., half, half].double()
    torch.testing.assert_close(found, expected.expand_as(found), atol=1e-7, rtol=1e-6)


class GroupsBehindQueries(nn.Module):
    """Grouped heads behind the queries: ``sample query group head key``."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8), nn.Linear(WIDTH, 8)

    def weights(self, x):
        q = self.q(x).unflatten(-1, (2, 2, SIZE))
        return torch.einsum("bngrd,bsgd->bngrs", q, self.k(x).unflatten(-1, (2, SIZE)))

    def forward(self, x):
        values = self.v(x).unflatten(-1, (2, SIZE))
        return torch.einsum("bngrs,bsgd->bngrd", self.weights(x).softmax(dim=-1), values).flatten(2)


def test_rows_are_queries_where_groups_of_heads_stand_behind_them():
    model, x = drawn(GroupsBehindQueries()), tokens(SIZE, FEW, WIDTH)
    (layer,) = dsf.inspect(model, x)
    with torch.no_grad():
        weights = model.double().weights(x.double()).softmax(dim=-1).permute(0, 2, 3, 1, 4)
    assert layer.axes == ("sample", "head")
    assert layer.row_input == layer.column_input
    seen = layer.map()
    torch.testing.assert_close(
        seen.flatten(0, 1).flatten(1).sort(dim=0).values,
        weights.flatten(0, 2).flatten(1).sort(dim=0).values,
        atol=1e-5,
        rtol=1e-5,
    )
    order = (seen[0].flatten(1)[:, None] - weights[0].flatten(0, 1).flatten(1)).abs().amax(-1)
    assert (order.min(dim=1).values < 1e-5).all()
