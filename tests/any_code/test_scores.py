"""Scores of queries and keys that become features of the query: its number is made of all keys."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.any_code.test_promise import answered, drawn, inspected

STEPS, WIDTH = 6, 8
X = drawn(2, STEPS, WIDTH)
TABLE, GATE, TAPS = drawn(STEPS, WIDTH), drawn(STEPS, 1), drawn(1, 1, 3)
BOTH = drawn(WIDTH + STEPS, WIDTH)


def _scores(x):
    return x @ x.mT


def _convolved(x):
    lines = functional.conv1d(_scores(x).flatten(0, 1)[:, None], TAPS, padding=1)
    return x * lines.flatten(1).mean(-1).unflatten(0, (-1, STEPS))[..., None]


MADE_OF_SCORES = {
    "weights times a table": lambda x: _scores(x).softmax(-1) @ TABLE,
    "scores times a table": lambda x: _scores(x) @ TABLE,
    "a table for each query": lambda x: torch.einsum(
        "nts,tsc->ntc", _scores(x).softmax(-1), TABLE.expand(STEPS, -1, -1)
    ),
    "a gate": lambda x: x * torch.sigmoid(_scores(x) @ GATE),
    "scores beside features": lambda x: torch.cat([x, _scores(x)], -1) @ BOTH,
    "normalised scores": lambda x: functional.layer_norm(_scores(x), (STEPS,)) @ TABLE,
    "convolved scores": _convolved,
    "the largest": lambda x: x * _scores(x).amax(-1, keepdim=True),
    "their spread": lambda x: x * _scores(x).std(-1, keepdim=True),
    "the smallest of all": lambda x: x * _scores(x).sort(-1)[0][..., :1],
    "the best": lambda x: x * _scores(x).topk(1, -1)[0],
    "that of the key that is furthest": lambda x: (
        x * _scores(x).gather(-1, _scores(x).abs().argmin(-1, keepdim=True))
    ),
    "that of another key in each sample": lambda x: (
        x * torch.stack([_scores(x)[0, :, 1], _scores(x)[1, :, 4]])[..., None]
    ),
    "density": lambda x: x * torch.exp(-torch.cdist(x, x)).mean(-1, keepdim=True),
}


class Before(nn.Module):
    """Scores become features in one module, before an attention that is read."""

    def __init__(self, run):
        super().__init__()
        self.run, self.before = run, nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.run(self.before(x))


@pytest.mark.parametrize("way", MADE_OF_SCORES)
def test_features_that_are_made_of_all_keys_are_listed(way):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Before(MADE_OF_SCORES[way])
            self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

        def forward(self, x):
            x = self.inner(x)
            return self.mix(x, x, x, need_weights=False)[0]

    assert answered(inspected(Whole(), X)) == {"inner", "mix"}


def test_the_score_of_a_token_with_itself_is_its_own():
    whole = nn.Sequential(
        Before(lambda x: x * _scores(x).diagonal(dim1=1, dim2=2)[..., None]),
        nn.Linear(WIDTH, WIDTH),
        nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True),
    )
    assert answered(inspected(whole, X)) == {"2.self_attn"}


class Pairs(nn.Module):
    """Features of pairs of tokens, through weights, and their mean for each of the first."""

    def __init__(self):
        super().__init__()
        self.weigh = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.tanh(self.weigh(x[:, :, None] * x[:, None])).mean(2)


def test_weights_between_features_of_pairs_mix_no_tokens():
    whole = nn.Sequential(Pairs(), nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True))
    assert answered(inspected(whole, X)) == {"0", "1.self_attn"}


def test_numbers_in_expanded_memory_are_followed():
    def distances(x):
        groups = x.unflatten(1, (2, -1))
        spread = torch.cdist(groups, groups).mean((2, 3))
        return spread[..., None].expand(-1, -1, WIDTH)

    whole = nn.Sequential(Before(distances), nn.Linear(WIDTH, WIDTH), Before(lambda x: x))
    whole.append(nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True))
    assert answered(inspected(whole, X)) == {"0", "3.self_attn"}


def _differences(x):
    return (x[:, :, None] - x[:, None]).tanh().movedim(-1, 1)


def _side_by_side(x):
    rows, columns = x[:, :, None, :3], x[:, None, :, 3:]
    sizes = -1, STEPS, STEPS, -1
    return torch.cat([rows.expand(sizes), columns.expand(sizes)], -1).movedim(-1, 1)


POOLS = {
    "max": functional.max_pool2d,
    "mean": functional.avg_pool2d,
    "power": lambda grid, size: functional.lp_pool2d(grid, 2.0, size),
    "adaptive": lambda grid, size: functional.adaptive_max_pool2d(
        grid, [1 if one > 1 else STEPS for one in size]
    ),
    "sum": lambda grid, size: grid.sum(2 if size[0] > 1 else 3, keepdim=True),
}


@pytest.mark.parametrize("size", [(STEPS, 1), (1, STEPS)], ids=["first", "second"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("grid", [_differences, _side_by_side])
@pytest.mark.parametrize("is_first", [True, False], ids=["before attention", "behind attention"])
def test_pools_over_one_side_of_a_grid_of_pairs_are_listed(grid, pool, size, is_first):
    class Whole(nn.Module):
        """Nothing in a module of its own."""

        def __init__(self):
            super().__init__()
            self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
            self.last = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            x = x if is_first else self.mix(x, x, x, need_weights=False)[0]
            pooled = self.last(POOLS[pool](grid(x), size).flatten(2).mT)
            return self.mix(pooled, pooled, pooled)[0] if is_first else pooled

    inspection = inspected(Whole(), X)
    assert "Whole" in {one.name for one in inspection.unsupported}
