"""Whatever mixes tokens is read or listed, whatever it is called and wherever it is computed."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code import modules
from tests.any_code.modules import KEEP_APART, MIXERS, Beside, drawn, tokens


def listed(model, x):
    inspection = dsf.inspect(drawn(model), x, probe=())
    assert [layer.name for layer in inspection] == ["attention"]
    assert inspection[0].is_exact
    return [missed.name for missed in inspection.unsupported]


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_beside_an_attention_is_listed(name, first):
    names = listed(Beside(MIXERS[name](), first=first), tokens())
    alone_moves = name in ("shift", "roll", "flip")  # each token of it moves one other
    assert any(each.startswith("other") for each in names) or (alone_moves and names)


@pytest.mark.parametrize("name", KEEP_APART)
def test_what_keeps_tokens_apart_is_not_listed(name):
    if name == "norm of channels":
        norm = nn.GroupNorm(1, modules.WIDTH, affine=False)
        other = modules.Computes(lambda x: norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
    else:
        other = KEEP_APART[name]()
    assert listed(Beside(other), tokens()) == []


def test_a_mixer_around_an_attention_is_listed_as_its_own():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = modules.Attention()

        def forward(self, x):
            return self.attention(x) + x.cumsum(dim=1)

    assert listed(Around(), tokens()) == ["Around"]


def test_the_front_end_that_makes_tokens_is_not_listed():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, modules.WIDTH, 2, stride=2)
            self.attention = modules.Attention()

        def forward(self, image):
            return self.attention(self.patch(image).flatten(2).mT)

    assert listed(Patches(), tokens(4, 3, 8, 8)) == []


def test_ids_are_followed_through_their_embedding():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, modules.WIDTH)
            self.attention = modules.Attention()

        def forward(self, ids):
            x = self.embed(ids)
            return self.attention(x) + torch.nn.functional.pad(x, (0, 0, 1, -1))

    ids = torch.arange(64).reshape(4, 16) % 13
    assert listed(Language(), ids) == ["Language"]
