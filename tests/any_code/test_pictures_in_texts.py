"""Models that read the patches of an image among the ids of a text."""

import threading

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import Attention, drawn

WORDS, WIDTH, PATCHES, PLACE = 23, 16, 4, 3
IDS = torch.randint(4, WORDS, (2, 9), generator=torch.Generator().manual_seed(0))
IDS[:, 1 : 1 + PATCHES] = PLACE
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def checked(there, patches):
    if int(there.sum()) != patches.shape[0] * patches.shape[1]:
        raise ValueError("there must be one place in the text for every patch")


def written(text, patches, there):
    checked(there, patches)
    return text.masked_scatter(there[..., None].expand_as(text), patches)


def put(text, patches, there):
    text = text.clone()
    text[there] = patches.flatten(0, 1)
    return text


def joined(text, patches, _there):
    return torch.cat([text[:, :1], patches, text[:, 1 + PATCHES :]], dim=1)


class Reader(nn.Module):
    """An attention over a text with patches in it, and what else it does to both."""

    def __init__(self, form, more=None):
        super().__init__()
        self.words, self.patches = nn.Embedding(WORDS, WIDTH), nn.Conv2d(3, WIDTH, 4, 4)
        self.tower, self.attention = Attention(), Attention()
        self.form, self.more = form, more

    def forward(self, ids, images):
        patches = self.patches(images).flatten(2).mT
        patches = patches + self.tower(patches)
        x = self.form(self.words(ids), patches, ids == PLACE)
        x = x + self.attention(x)
        return x if self.more is None else self.more(x)


FORMS = [written, put, joined]


@pytest.mark.parametrize("form", FORMS)
def test_both_attentions_are_all_that_mixes(form):
    inspection = dsf.inspect(drawn(Reader(form)), IDS, IMAGES)
    assert [layer.name for layer in inspection] == ["tower", "attention"]
    assert all(layer.is_exact for layer in inspection)
    assert not inspection.unsupported


PICTURE, REST = slice(1, 1 + PATCHES), slice(1 + PATCHES, None)


def words_in_patches(x):
    return torch.cat([x[:, :1], x[:, PICTURE] + x[:, REST].mean(1, True), x[:, REST]], dim=1)


def patches_in_words(x):
    return torch.cat([x[:, :1], x[:, PICTURE], x[:, REST] + x[:, PICTURE].mean(1, True)], dim=1)


def patches_turned(x):
    return torch.cat([x[:, :1], x[:, PICTURE] + x[:, PICTURE].flip(1), x[:, REST]], dim=1)


def patches_past_torch(x):
    turned = torch.from_numpy(x[:, PICTURE].detach().numpy()[:, ::-1].copy())
    return torch.cat([x[:, :1], x[:, PICTURE] + turned, x[:, REST]], dim=1)


def patches_in_words_unseen(x):
    made = []
    thread = threading.Thread(target=lambda: made.append(patches_in_words(x)))
    thread.start()
    thread.join()
    return made[0]


@pytest.mark.parametrize("form", FORMS)
def test_what_moves_words_where_nothing_listens_is_listed(form):
    inspection = dsf.inspect(drawn(Reader(form, patches_in_words_unseen)), IDS, IMAGES)
    assert "Reader" in {one.name for one in inspection.unsupported}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "more", [words_in_patches, patches_in_words, patches_turned, patches_past_torch]
)
def test_what_else_mixes_words_or_patches_is_listed(form, more):
    inspection = dsf.inspect(drawn(Reader(form, more)), IDS, IMAGES)
    assert "Reader" in {one.name for one in inspection.unsupported}


class Scored(nn.Module):
    """Patches of an image, and what a word of a text, or all of them, has to say of each."""

    def __init__(self, choose, join):
        super().__init__()
        self.words, self.patches = nn.Embedding(WORDS, WIDTH), nn.Conv2d(3, WIDTH, 4, 4)
        self.tower, self.attention = Attention(), Attention()
        self.choose, self.join = choose, join

    def forward(self, ids, images):
        patches, x = self.patches(images).flatten(2).mT, self.words(ids)
        patches, x = patches + self.tower(patches), x + self.attention(x)
        return self.join(patches, self.choose(x, ids))


CHOICES = {
    "last": lambda x, _: x[:, -1:],
    "largest id": lambda x, ids: x[torch.arange(len(x)), ids.argmax(-1), None],
    "gathered": lambda x, ids: x.gather(1, ids.argmax(-1)[:, None, None].expand(-1, 1, WIDTH)),
    "mean": lambda x, _: x.mean(1, True),
    "some": lambda x, ids: (x * (ids > 9)[..., None]).sum(1, True) / (ids > 9).sum(),
}
SENT = {
    "added": torch.add,
    "scores": lambda patches, text: patches @ text.mT,
    "gate": lambda patches, text: patches * text.sigmoid(),
    "norm": lambda patches, text: norm_of(torch.cat([patches, text.expand_as(patches)], -1)),
}


def norm_of(x):
    return nn.functional.layer_norm(x, x.shape[-1:])


@pytest.mark.sampled(count=5)
@pytest.mark.parametrize("join", SENT)
@pytest.mark.parametrize("choose", CHOICES)
def test_words_that_are_sent_to_every_patch_are_listed(choose, join):
    inspection = dsf.inspect(drawn(Scored(CHOICES[choose], SENT[join])), IDS, IMAGES)
    assert "Scored" in {one.name for one in inspection.unsupported}


@pytest.mark.parametrize("choose", ["last", "mean", "some"])
def test_scores_of_pooled_images_and_texts_are_not_listed(choose):
    model = Scored(CHOICES[choose], lambda patches, text: (patches.mean(1) * text[:, 0]).sum(-1))
    assert not dsf.inspect(drawn(model), IDS, IMAGES).unsupported
