"""One token out of all is sent to others, beside an attention: whichever it is, that is found."""

from itertools import permutations, product

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.capture.calls import Invocation
from dsf.inspection.causal.coordinates import numbered
from dsf.inspection.causal.replay import cells_drawn, separating
from tests.any_code import modules
from tests.any_code.modules import WIDTH, drawn, tokens


class Sending(modules.Attention):
    """Attention, and one token added to every other."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def forward(self, x):
        return super().forward(x) + x[:, self.place, None]


class Around(nn.Module):
    """The same outside of the attention."""

    def __init__(self, place):
        super().__init__()
        self.inner, self.place = modules.Attention(), place

    def forward(self, x):
        return x + self.inner(x) + x[:, self.place, None]


class ByMatrix(Around):
    """The same by a matrix that is zero but for one column."""

    def forward(self, x):
        matrix = torch.zeros(x.shape[1], x.shape[1])
        matrix[:, self.place] = 1
        return x + self.inner(x) + matrix @ x


class ToOne(modules.Attention):
    """Attention, and one token added to one other."""

    def __init__(self, place, other):
        super().__init__()
        self.place, self.other = place, other

    def forward(self, x):
        beside = torch.zeros_like(x)
        beside[:, self.other] = x[:, self.place]
        return super().forward(x) + beside


class ToOneByMatrix(modules.Attention):
    """The same by a matrix of one number, beside an attention that is not fused."""

    def __init__(self, place, other):
        super().__init__(is_fused=False)
        matrix = torch.zeros(TOKENS, TOKENS)
        matrix[other, place] = 1
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        return super().forward(x) + self.matrix @ x


TOKENS = 11
KINDS = {Sending: "a part", Around: "mixes tokens", ByMatrix: "mixes tokens"}


@pytest.mark.sampled(count=8)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", [0, 1, WIDTH // 2 + 1, WIDTH - 1])
@pytest.mark.parametrize("samples", [1, 2 * WIDTH])
def test_a_token_that_alone_is_sent_is_found(kind, place, samples):
    model = drawn(kind(place))
    found = dsf.inspect(model, tokens(samples, WIDTH, WIDTH), probe=())
    first = next(iter(found.checks))
    assert (first["module"], first["answer"]) == (kind.__name__, KINDS[kind])
    assert kind.__name__ in {one.name for one in found.unsupported}


@pytest.mark.parametrize("place", [0, WIDTH - 1])
def test_what_was_sent_to_all_is_not_taken_for_them(place):
    """A second layer after the first is asked about the tokens themselves."""
    model = drawn(nn.Sequential(Sending(place), Sending(place)))
    found = dsf.inspect(model, tokens(), probe=())
    assert [record["answer"] for record in found.checks if record["module"] in "01"] == [
        "a part",
        "a part",
    ]


class WithWords(nn.Module):
    """Attention among some tokens, and what words of a second sequence do to them."""

    def __init__(self, effect):
        super().__init__()
        self.inner, self.effect = modules.Attention(), effect

    def forward(self, x, words):
        return self.effect(x + self.inner(x), words)


ONE_WORD = {
    "added": lambda x, words: x + words[:, :1],
    "a gate": lambda x, words: x * words[:, -1:].sigmoid(),
    "chosen": lambda x, words: x - words.index_select(1, torch.tensor([3])),
}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("effect", [*ONE_WORD, "each"])
def test_a_word_that_is_sent_to_tokens_of_another_sequence_is_found(effect, samples):
    model = drawn(WithWords(ONE_WORD.get(effect, lambda x, words: x + words[:, : x.shape[1]])))
    x, words = tokens(samples, 7, WIDTH), tokens(samples, TOKENS, WIDTH)
    names = {one.name for one in dsf.inspect(model, {"x": x, "words": words}).unsupported}
    assert names == ({"WithWords"} if effect in ONE_WORD else set())


@pytest.mark.parametrize("pair", [(0, 3), (1, 8), (10, 0), (4, 5)], ids=str)
@pytest.mark.parametrize("kind", [ToOne, ToOneByMatrix], ids=lambda kind: kind.__name__)
def test_a_token_that_is_sent_to_one_other_alone_is_found(kind, pair):
    found = dsf.inspect(drawn(kind(*pair)), tokens(1, TOKENS, WIDTH), probe=())
    assert found[0].is_part


@pytest.mark.parametrize("sizes", [(11,), (2, 7), (4, 4), (1, 1), (3, 2, 5)])
def test_any_two_tokens_are_separated_by_some_draw(sizes):
    x = torch.zeros(*sizes, 3)
    asked = Invocation(nn.Identity(), (x,), {}, [], given=[numbered(x, "x")])
    for axis in asked.given[0].planes:
        if axis.number == len(sizes):
            axis.source.channels = axis
    draws = [cells_drawn(asked, 1 + number) for number in range(separating(asked))]
    replaced = [set(product(*(half.tolist() for half in cell.values()))) for (cell,) in draws]
    for one, other in permutations(product(*map(range, sizes)), 2):
        assert any(one in places and other not in places for places in replaced)
