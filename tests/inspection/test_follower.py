"""Modules of anybody's that write softmax attention out, in ways that are followed or refused."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import NothingCapturedError
from dsf.inspection.capture.precision import guarded
from dsf.inspection.softmax.attention import GivenWeights
from dsf.mixers import SoftmaxAttention

EXACT, HEADS, WIDTH, TOKENS, SAMPLES = 1e-13, 2, 8, 7, 3


class Written(nn.Module):
    """Self-attention whose middle is ``attend(query, key, value)``; the weights are kept aside.

    The middle gets ``sample head time channel`` and gives the response and the weights.
    """

    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.inner, self.outer = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        parts = self.inner(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed, weights = self.attend(*parts)
        kept[:] = [weights.clone()]
        return self.outer(mixed.transpose(1, 2).flatten(-2))


kept: list[torch.Tensor] = []
AHEAD = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
SLOPES = torch.tensor([0.3, 0.7], dtype=torch.float64)[:, None, None]
LAG = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).double()


def matrices(query, key, value):
    weights = (query @ key.mT / 2.0).masked_fill(AHEAD, -torch.inf).softmax(dim=-1)
    return weights @ value, weights


def contracted(query, key, value):
    scores = torch.einsum("bhid,bhjd->bhij", 0.5 * query, key)
    weights = nn.functional.softmax(scores - SLOPES * LAG, dim=3)
    return torch.einsum("b h i j, b h j d -> b h i d", weights, value), weights


def turned(query, key, value):
    weights = torch.matmul(query, key.transpose(-2, -1)).softmax(-1)
    return (value.mT @ weights.mT).mT, weights


def stacked(query, key, value):
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    scores = torch.baddbmm(LAG.expand(len(query), -1, -1), query, key.mT, alpha=0.4)
    weights = torch.softmax(scores.float().double(), dim=-1, dtype=torch.float64)
    split = weights.unflatten(0, (-1, HEADS))
    return torch.bmm(weights, value).unflatten(0, (-1, HEADS)), split


def scaled_by_head(query, key, value):
    weights = (query @ key.mT).mul(SLOPES).softmax(dim=-1)
    return weights @ value, weights


def in_place(query, key, value):
    scores = query @ key.mT
    scores *= 0.5
    scores += LAG
    weights = scores.softmax(dim=-1)
    return weights @ value, weights


def capped(query, key, value):
    weights = (3 * torch.tanh(query @ key.mT / 3)).softmax(dim=-1)
    return weights @ value, weights


def with_positions(query, key, value):
    scores = query @ key.mT + query @ LAG[:, : query.shape[-1]].expand_as(key).mT
    weights = scores.softmax(dim=-1)
    return weights @ value, weights


def talking_heads(query, key, value):
    mixed = nn.functional.linear((query @ key.mT).movedim(1, -1), LAG[:HEADS, :HEADS] + 0.5)
    weights = mixed.movedim(-1, 1).softmax(dim=-1)
    return weights @ value, weights


def with_a_sink(query, key, value):
    scores = query @ key.mT
    sink = torch.ones_like(scores[..., :1])
    weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    return weights @ value, weights


def thinned(query, key, value):
    """Weights are written into after softmax."""
    weights = (query @ key.mT).softmax(dim=-1)
    weights.masked_fill_(AHEAD.mT, 0.0)
    return weights @ value, weights


EXPLAINED = [matrices, contracted, turned, stacked, in_place]
GIVEN = [scaled_by_head, capped, with_positions, talking_heads, with_a_sink, thinned]


def named(attend):
    return attend.__name__


@pytest.fixture
def x():
    return torch.randn(SAMPLES, TOKENS, WIDTH, generator=rng(), dtype=torch.float64)


def rng():
    return torch.Generator().manual_seed(0)


def module(attend):
    made = Written(attend).double()
    with torch.no_grad():
        for part in made.parameters():
            part.copy_(torch.randn(part.shape, generator=rng(), dtype=torch.float64))
    return made


@pytest.mark.parametrize("attend", [*EXPLAINED, *GIVEN], ids=named)
def test_maps_are_what_the_module_multiplied_its_values_with(attend, x):
    (layer,) = dsf.inspect(module(attend), x)
    made = module(attend)
    with guarded(made):  # the checks ran it with another token
        made(x)
    assert type(layer.mixer) is (SoftmaxAttention if attend in EXPLAINED else GivenWeights)
    assert layer.axes == ("sample", "head")
    assert layer.error < EXACT
    torch.testing.assert_close(layer.map(), kept[0], rtol=0, atol=EXACT)
    assert (layer.map() - layer.map().mT).abs().max() > 0.1


@pytest.mark.parametrize("attend", [matrices, contracted, with_a_sink], ids=named)
def test_whole_modules(attend, x):
    whole = dsf.inspect(module(attend), x)[0].whole
    output = module(attend)(x)
    torch.testing.assert_close(whole(x), output.detach(), rtol=0, atol=1e-11)


def test_a_scale_and_a_mask_leave_no_bias(x):
    (layer,) = dsf.inspect(module(matrices), x)
    assert layer.mixer.bias is None
    assert layer.mixer.scale == 0.5
    assert isinstance(layer.system, dsf.System)


def test_time_first_and_one_head():
    class Plain(nn.Module):
        def forward(self, x):  # time sample channel
            rows = x.transpose(0, 1)
            return ((rows @ rows.mT).softmax(dim=-1) @ rows).transpose(0, 1)

    x = torch.randn(TOKENS, SAMPLES, WIDTH, generator=rng(), dtype=torch.float64)
    (layer,) = dsf.inspect(Plain(), x)
    assert layer.map().shape == (SAMPLES, 1, TOKENS, TOKENS)
    rows = x.transpose(0, 1)
    torch.testing.assert_close(layer.map()[:, 0], (rows @ rows.mT).softmax(dim=-1))


def test_two_attentions_in_one_module(x):
    class Twice(Written):
        def forward(self, x):
            return super().forward(super().forward(x))

    twice = Twice(matrices).double()
    inspection = dsf.inspect(twice, x)
    twice(x)
    assert [layer.name for layer in inspection] == ["Twice", "Twice (call 2)"]
    torch.testing.assert_close(inspection[1].map(), kept[0])


class Blocks(nn.Module):
    """Attention inside blocks of two tokens, and with what is left over another one."""

    def forward(self, x):
        blocks = x[:, : TOKENS - 1].unflatten(1, (-1, 2))
        inside = ((blocks @ blocks.mT).softmax(dim=-1) @ blocks).flatten(1, 2)
        last = (x[:, -1:] @ x.mT).softmax(dim=-1) @ x
        return torch.cat([inside, last], dim=1)


def test_attention_in_blocks_is_refused(x):
    with pytest.raises(NothingCapturedError, match="only a part"):
        dsf.inspect(Blocks(), x)


def test_what_is_no_attention_is_neither_read_nor_listed(x):
    """Streams that are mixed with weights of a projection, and experts that are chosen."""

    class Streams(Written):
        def forward(self, x):
            rates = self.inner(x)[..., :4].unflatten(-1, (2, 2)).softmax(dim=-1)
            streams = rates @ x.unflatten(-1, (2, -1))
            return super().forward(streams.flatten(-2))

    inspection = dsf.inspect(Streams(matrices).double(), x)
    assert len(inspection) == 1
    assert inspection.unsupported == ()


@pytest.mark.parametrize("attend", EXPLAINED, ids=named)
def test_scores_of_any_size_hide_no_key(attend, x):
    (layer,) = dsf.inspect(module(attend), 3e2 * x)
    with guarded(made := module(attend)):
        made(3e2 * x)
    torch.testing.assert_close(layer.map(), kept[0], rtol=0, atol=1e-8)


def test_a_query_that_sees_no_key_is_taken_over(x):
    """Hidden by the smallest number, it reads all keys alike."""

    def blind(query, key, value):
        hidden = torch.zeros(TOKENS, TOKENS, dtype=torch.float64)
        hidden[0] = torch.finfo(torch.float64).min
        weights = (query @ key.mT + hidden).softmax(dim=-1)
        return weights @ value, weights

    (layer,) = dsf.inspect(module(blind), x)
    module(blind)(x)
    assert (kept[0][..., 0, :] == 1 / TOKENS).all()
    assert (layer.map()[..., 0, :] == 0).all()
    torch.testing.assert_close(layer.map()[..., 1:, :], kept[0][..., 1:, :])
    assert layer.error < EXACT
