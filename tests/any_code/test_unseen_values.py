"""Mixers whose values come from where no token can be followed: they are listed with what is read.

What was mixed there is in no map, though nothing else moves while the mixer keeps its output.
"""

import pytest
import torch
from torch import nn
from torch.nn.functional import grid_sample, scaled_dot_product_attention

from tests.any_code.test_promise import drawn, inspected, listed

WIDTH, TOKENS, SLOTS = 8, 6, 5


class Attention(nn.Module):
    """Attention whose keys and values something else makes."""

    def __init__(self, made=lambda x: x, *, is_fused=False):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.made, self.is_fused = nn.Linear(WIDTH, WIDTH), made, is_fused

    def forward(self, x):
        made = self.made(x)
        q, k, v = self.q(x), self.k(made), self.v(made)
        if self.is_fused:
            return self.out(scaled_dot_product_attention(q, k, v))
        return self.out((q @ k.mT).softmax(-1) @ v)


class Library(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x)[0]


class Recurrence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def _by_lists(x):
    return torch.tensor(x.cumsum(1).tolist())


WAYS = {"numpy": lambda x: torch.from_numpy(x.numpy().cumsum(1)), "lists": _by_lists}
MIXERS = {
    "own softmax": Attention,
    "fused": lambda: Attention(is_fused=True),
    "library": Library,
    "lstm": lambda: Recurrence(nn.LSTM),
    "gru": lambda: Recurrence(nn.GRU),
}


@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("way", WAYS)
def test_what_leaves_torch_before_a_mixer_is_listed(way, mixer, has_residual):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer, self.out = MIXERS[mixer](), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            y = self.mixer(WAYS[way](x))
            return self.out(x + y if has_residual else y)

    assert "Model" in listed(inspected(Model(), drawn(2, TOKENS, WIDTH)))


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_leaves_torch_before_the_values_of_an_attention_is_listed(way, is_fused):
    model = Attention(WAYS[way], is_fused=is_fused)
    assert "Attention" in listed(inspected(model, drawn(2, TOKENS, WIDTH)))


def _sampled(x):
    """Values between tokens, at fewer places."""
    places = torch.linspace(-0.9, 0.8, SLOTS).expand(len(x), 1, SLOTS)
    grid = torch.stack([places, torch.zeros_like(places)], dim=-1)
    return grid_sample(x.mT[:, :, None], grid, align_corners=True)[:, :, 0].mT


@pytest.mark.parametrize("is_fused", [True, False])
def test_columns_that_are_sampled_between_tokens_are_no_tokens(is_fused):
    inspection = inspected(Attention(_sampled, is_fused=is_fused), drawn(2, TOKENS, WIDTH))
    assert [layer.columns for layer in inspection] == ["slot"]
    assert "Attention" in listed(inspection)


@pytest.mark.parametrize("is_fused", [True, False])
def test_columns_that_are_learnt_are_no_tokens(is_fused):
    class Memory(Attention):
        def __init__(self):
            super().__init__(lambda x: self.learnt.expand(len(x), -1, -1), is_fused=is_fused)
            self.learnt = nn.Parameter(torch.zeros(SLOTS, WIDTH))

    inspection = inspected(Memory(), drawn(2, TOKENS, WIDTH))
    (layer,) = inspection
    assert layer.columns == "slot"
    assert layer.is_exact
    assert not inspection.unsupported
