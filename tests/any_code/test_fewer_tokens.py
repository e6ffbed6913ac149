"""Coarser and fewer tokens: patches beside words, every second token, convolutions before both."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import Attention, drawn, tokens

WORDS, SIDE, CHANNELS = 3, 2, 4


class Joint(nn.Module):
    """Two attentions over the patches of an image and the words of a text together."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, CHANNELS, 2, stride=2)
        self.layers = nn.ModuleList(Attention(width=CHANNELS, heads=2) for _ in range(2))

    def leak(self, patches, words):
        return patches, words

    def forward(self, image, words):
        patches = self.patches(image).flatten(2).mT
        patches, words = self.leak(patches, words)
        x = torch.cat([words, patches], dim=1)
        for layer in self.layers:
            x = x + layer(x)
        return x[:, words.shape[1] :]


class WordsInPatches(Joint):
    """All patches get the first word."""

    def leak(self, patches, words):
        return patches + words[:, :1], words


class PatchesInWords(Joint):
    """All words get the first patch."""

    def leak(self, patches, words):
        return patches, words + patches[:, :1]


def in_joint(kind):
    image, words = tokens(2, 3, 2 * SIDE, 2 * SIDE), tokens(2, WORDS, CHANNELS)
    return dsf.inspect(drawn(kind()), image, words)


def test_patches_move_where_their_pixels_are_replaced_beside_words():
    found = in_joint(Joint)
    assert not found.unsupported
    assert all(layer.is_exact for layer in found)


@pytest.mark.parametrize("kind", [WordsInPatches, PatchesInWords])
def test_what_one_sequence_sends_to_the_other_is_found(kind):
    assert in_joint(kind).unsupported


class EverySecond(nn.Module):
    """Attention over every second token, of which a single one may be sent to the others."""

    def __init__(self, sent=None):
        super().__init__()
        self.first, self.second = Attention(is_fused=False), Beside(sent)

    def forward(self, x):
        x = x + self.first(x)
        return self.second(x[:, ::2])


class Beside(Attention):
    def __init__(self, sent):
        super().__init__(is_fused=False)
        self.sent, self.act = sent, nn.Hardswish()

    def forward(self, x):
        y = x + super().forward(self.act(x))
        return y if self.sent is None else y + x[:, self.sent, None]


def test_every_second_token_is_replaced_too():
    found = dsf.inspect(drawn(EverySecond()), tokens())
    assert not found.unsupported
    module, x = drawn(EverySecond()), tokens()
    with torch.no_grad():
        x = (x + module.first(x))[:, ::2]
        wanted = module.second.weights(module.second.act(x))
    torch.testing.assert_close(found["second"].map().double(), wanted, rtol=1e-4, atol=1e-5)


def test_one_of_every_second_token_sent_to_the_others_is_found():
    assert dsf.inspect(drawn(EverySecond(3)), tokens()).unsupported


class Sound(nn.Module):
    """Convolutions over samples of sound before coarser tokens are made of these."""

    def __init__(self, *further):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), *further)
        self.coarser = nn.Conv1d(4, CHANNELS, 4, stride=4)
        self.attention = Attention(width=CHANNELS, heads=2)

    def forward(self, x):
        return self.attention(self.coarser(self.fine(x)).mT)


def in_sound(*further):
    return dsf.inspect(drawn(Sound(*further)), tokens(1, 2, 12))


def test_the_first_convolution_is_read_where_more_mix_the_same_tokens():
    found = in_sound(nn.GELU(), nn.Conv1d(4, 4, 3, padding=1))
    assert not found.unsupported
    assert [layer.name for layer in found] == ["fine.0", "fine.2", "attention"]


def test_the_first_convolution_alone_makes_the_tokens():
    assert [layer.name for layer in in_sound()] == ["attention"]


def test_a_norm_over_the_same_tokens_is_listed_with_the_first_convolution():
    found = in_sound(nn.GELU(), nn.Conv1d(4, 4, 3, padding=1), nn.LayerNorm(12))
    told = {layer.name for layer in found} | {one.name for one in found.unsupported}
    assert {"fine.0", "fine.2", "fine.3"} <= told
