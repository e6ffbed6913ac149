"""What is made of all tokens of one input reaches the tokens of another, beside attentions."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import WIDTH, Attention, drawn, tokens


class Two(nn.Module):
    """Attentions over two inputs, of which the first is pooled and meets tokens of the second."""

    def __init__(self, pool, meet):
        super().__init__()
        self.one, self.other = Attention(), Attention()
        self.leave, self.both = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.pool, self.meet = pool, meet

    def forward(self, x, y):
        return self.meet(self, self.other(y), self.leave(self.pool(self.one(x)))[:, None])


def as_key(model, y, pooled):
    return model.other(torch.cat([y, pooled], dim=1))[:, :-1]


POOLS = {
    "mean": lambda x: x.mean(dim=1),
    "largest": lambda x: x.amax(dim=1),
    "first": lambda x: x[:, 0],
}
MEETS = {
    "added": lambda _, y, pooled: y + pooled,
    "gate": lambda _, y, pooled: y * pooled.sigmoid(),
    "weights": lambda _, y, pooled: y @ (pooled.mT @ pooled),
    "channels": lambda model, y, pooled: model.both(torch.cat([y, pooled.expand_as(y)], dim=-1)),
    "key": as_key,
}


def listed(model, steps):
    names = dsf.inspect(
        drawn(model), tokens(2, 6, WIDTH), tokens(2, steps, WIDTH, seed=2), probe=()
    )
    return [one.name for one in names.unsupported]


@pytest.mark.sampled(count=6)
@pytest.mark.parametrize("steps", [6, 5])
@pytest.mark.parametrize("meet", MEETS)
@pytest.mark.parametrize("pool", POOLS)
def test_what_is_pooled_and_meets_tokens_of_another_input_is_listed(pool, meet, steps):
    if (pool, meet) == ("first", "key"):
        pytest.skip("a single token is a column of the map")
    assert listed(Two(POOLS[pool], MEETS[meet]), steps)


@pytest.mark.parametrize("pool", POOLS)
def test_what_is_pooled_and_meets_no_token_is_not_listed(pool):
    assert not listed(Two(POOLS[pool], lambda _, y, pooled: (y, pooled)), 5)
    assert not listed(Two(POOLS[pool], lambda _, y, pooled: (y, pooled.square().mean())), 5)
    assert not listed(Two(POOLS[pool], lambda _, y, pooled: y.mean(dim=1) + pooled[:, 0]), 5)


class Crossed(nn.Module):
    """Tokens of one input read all of another, in a way that is no softmax."""

    def __init__(self):
        super().__init__()
        self.one, self.other = Attention(), Attention()

    def forward(self, x, y):
        q, (k, v) = self.other.q(self.other(y)), (self.one.k(self.one(x)), self.one.v(x))
        return y + q @ (k.mT @ v) / WIDTH


class Softly(Crossed):
    """The same in a softmax, whose map is read."""

    def forward(self, x, y):
        x, y = self.one(x), self.other(y)
        return y + (self.other.q(y) @ self.one.k(x).mT).softmax(dim=-1) @ self.one.v(x)


def test_a_sum_over_tokens_of_another_input_is_listed():
    assert listed(Crossed(), 5) == ["Crossed"]
    assert not listed(Softly(), 5)


class Given(nn.Module):
    """A module that is read as a whole, given what is made of all tokens beside single ones."""

    def __init__(self, part, run):
        super().__init__()
        self.part, self.into, self.run = part(), nn.Linear(WIDTH, WIDTH), run

    def forward(self, x):
        return self.run(self.part, self.into(x))


def attention():
    return nn.MultiheadAttention(WIDTH, 2, batch_first=True)


def recurrence():
    return nn.GRU(WIDTH, WIDTH, batch_first=True)


def mean(x):
    return x.mean(dim=1, keepdim=True)


def by_latents(part, x):
    few = part(mean(x) * 0 + torch.ones(len(x), 3, WIDTH), x, x)[0]
    return part(x, *2 * [torch.cat([x, few], dim=1)])[0]


AS_A_WHOLE = {
    "a key": (attention, lambda part, x: part(x, *2 * [torch.cat([x, x.amax(1, True)], 1)])[0]),
    "all keys": (attention, lambda part, x: part(x, mean(x), mean(x))[0]),
    "a first token": (recurrence, lambda part, x: part(torch.cat([mean(x), x], 1))[0][:, 1:]),
    "memory of a decoder": (
        lambda: nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True),
        lambda part, x: part(x, mean(x)),
    ),
}


@pytest.mark.parametrize("way", AS_A_WHOLE)
def test_what_is_pooled_and_given_to_a_module_that_is_read_as_a_whole_is_listed(way):
    inspection = dsf.inspect(drawn(Given(*AS_A_WHOLE[way])), tokens(2, 6, WIDTH))
    assert [one.name for one in inspection.unsupported] == ["Given"]
    assert "a place that was not seen" in inspection.unsupported[0].reason


@pytest.mark.parametrize("run", [by_latents, lambda part, x: part(x, x, x)[0]])
def test_what_maps_alone_make_of_all_tokens_is_not_listed(run):
    inspection = dsf.inspect(drawn(Given(attention, run)), tokens(2, 6, WIDTH))
    assert not inspection.unsupported


class OverTime(nn.Module):
    """A series less its mean over its standard deviation, and both of these."""

    def forward(self, x):
        centre, scale = x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
        return (x - centre) / scale, centre, scale


class Forecast(nn.Module):
    """Attention over patches of a series, and further times in its own scale."""

    def __init__(self):
        super().__init__()
        self.norm, self.enter = OverTime(), nn.Linear(4, WIDTH)
        self.attention, self.leave = Attention(), nn.Linear(WIDTH, 3)

    def forward(self, x):
        x, centre, scale = self.norm(x)
        pooled = self.attention(self.enter(x.unfold(-1, 4, 4))).mean(dim=1)
        return self.leave(pooled) * scale + centre


def test_a_pooled_output_in_the_scale_of_a_series_is_not_listed():
    found = dsf.inspect(drawn(Forecast()), tokens(2, 24, 1)[..., 0])
    assert [layer.name for layer in found] == ["norm", "attention"]
    assert not found.unsupported


class OfVariates(Forecast):
    """The same of several series side by side, which returns their means as well."""

    def forward(self, x):
        x, centre, scale = self.norm(x.mT)
        patches = self.enter(x.unfold(-1, 4, 4))
        mixed = self.attention(patches.flatten(0, 1)).unflatten(0, x.shape[:2])
        return mixed, centre, scale


def test_means_that_are_returned_for_every_series_are_not_listed():
    found = dsf.inspect(drawn(OfVariates()), tokens(2, 24, 3))
    assert [layer.name for layer in found] == ["norm", "attention"]
    assert not found.unsupported


GROUPS = {
    "means": lambda _, x: x.unflatten(1, (-1, 2)).mean(dim=2),
    "largest": lambda _, x: nn.functional.max_pool1d(x.mT, 2).mT,
    "windows": lambda model, x: model.over(x.mT).mT,
    "side by side": lambda model, x: model.both(x.unflatten(1, (-1, 2)).flatten(2)),
}


class Coarse(nn.Module):
    """Attention among groups of tokens, of which each token gets that of its own group."""

    def __init__(self, pool, *, is_added):
        super().__init__()
        self.enter, self.both = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.over, self.inner = nn.Conv1d(WIDTH, WIDTH, 2, 2), Attention()
        self.pool, self.is_added = pool, is_added

    def forward(self, x):
        x = self.enter(x)
        coarse = self.inner(self.pool(self, x))
        return x + coarse.repeat_interleave(2, dim=1) if self.is_added else coarse


@pytest.mark.parametrize("pool", GROUPS)
def test_an_attention_among_groups_that_come_back_to_their_tokens_is_not_all(pool):
    found = dsf.inspect(drawn(Coarse(GROUPS[pool], is_added=True)), tokens(2, 6, WIDTH), probe=())
    assert "Coarse" in {one.name for one in found.unsupported}
    alone = dsf.inspect(drawn(Coarse(GROUPS[pool], is_added=False)), tokens(2, 6, WIDTH), probe=())
    assert not alone.unsupported
