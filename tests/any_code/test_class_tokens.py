"""Places of no token, such as class tokens, which hold what an attention sent there."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.causal.coordinates import NONE, Coordinates, numbered
from dsf.inspection.probing.driven import FollowedCall
from dsf.inspection.recording import recorded
from tests.any_code.modules import Attention, drawn

WIDTH, TOKENS, OUT = 8, 6, 5
LEARNT = [(1, 0), (0, 1), (2, 1)]


class Registers(nn.Module):
    """Tokens between learnt ones, an attention, and what ``mix`` does to all of them."""

    def __init__(self, mix, before, behind):
        super().__init__()
        self.embed, self.attention = nn.Linear(3, WIDTH), Attention(width=WIDTH, heads=2)
        self.before = nn.Parameter(torch.empty(before, WIDTH))
        self.behind = nn.Parameter(torch.empty(behind, WIDTH))
        self.mix = mix(before + TOKENS + behind)

    def forward(self, x):
        learnt = (each.expand(len(x), -1, -1) for each in (self.before, self.behind))
        before, behind = learnt
        h = torch.cat([before, self.embed(x), behind], dim=1)
        return self.mix(h + self.attention(h))


class Along(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, h):
        return self.inner(h.mT).mT


class Flat(nn.Module):
    """A head over all places; their channels lie side by side, or their places do."""

    def __init__(self, places, *, swapped):
        super().__init__()
        self.swapped, self.inner = swapped, nn.Linear(places * WIDTH, OUT)

    def forward(self, h):
        return self.inner((h.mT if self.swapped else h).flatten(1))


class Ends(nn.Module):
    """A mean of neighbours, with the places at the ends taken twice."""

    def __init__(self):
        super().__init__()
        self.inner = nn.AvgPool1d(3, stride=1)

    def forward(self, h):
        return self.inner(torch.cat([h[:, :1], h, h[:, -1:]], dim=1).mT).mT


def linear(places):
    return Along(nn.Linear(places, places))


def convolution(_):
    return Along(nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH))


def inspected(mix, before, behind):
    model = drawn(Registers(mix, before, behind))
    x = torch.randn(2, TOKENS, 3, generator=torch.Generator().manual_seed(1))
    found = dsf.inspect(model, x)
    assert [layer.name for layer in found] == ["attention", "mix.inner"]
    assert found[1].is_exact
    assert found.unsupported == ()
    return model.mix.inner, found[1]


def numbers_of(before, behind):
    return torch.tensor([*[-1] * before, *range(TOKENS), *[-1] * behind])


@pytest.mark.parametrize(("before", "behind"), LEARNT)
def test_weights_over_places_read_class_tokens_too(before, behind):
    inner, layer = inspected(linear, before, behind)
    numbers = numbers_of(before, behind)
    assert (layer.column_tokens == numbers).all()
    torch.testing.assert_close(layer.map()[0, 0].float(), inner.weight)
    assert (layer.row_tokens == numbers).all() or (layer.row_tokens == -1).all()


@pytest.mark.parametrize(("before", "behind"), LEARNT)
def test_a_convolution_sends_tokens_to_class_tokens_and_back(before, behind):
    inner, layer = inspected(convolution, before, behind)
    numbers = numbers_of(before, behind)
    assert (layer.column_tokens == numbers).all()
    places = before + TOKENS + behind
    for channel in range(WIDTH):
        below, own, above = inner.weight[channel, 0]
        lines = ((below, -1), (own, 0), (above, 1))
        expected = sum(w * torch.ones(places - abs(k)).diag(k) for w, k in lines)
        torch.testing.assert_close(layer.map()[0, channel].float(), expected)
    assert (layer.row_tokens == numbers).all()


@pytest.mark.parametrize(("before", "behind"), LEARNT)
def test_places_that_are_taken_twice_are_columns_each(before, behind):
    _, layer = inspected(lambda _: Ends(), before, behind)
    numbers = numbers_of(before, behind)
    expected = torch.ones(len(numbers), len(numbers) + 2).triu().tril(2) / 3
    torch.testing.assert_close(layer.map()[0, 0].float(), expected)
    ends = numbers[:1], numbers, numbers[-1:]
    assert (layer.column_tokens == torch.cat(ends)).all()


@pytest.mark.parametrize(("before", "behind"), LEARNT)
@pytest.mark.parametrize("swapped", [True, False])
def test_a_head_over_all_places_reads_class_tokens_too(before, behind, swapped):
    inner, layer = inspected(lambda places: Flat(places, swapped=swapped), before, behind)
    assert (layer.column_tokens == numbers_of(before, behind)).all()
    shape = (WIDTH, -1) if swapped else (-1, WIDTH)
    weight = inner.weight.unflatten(1, shape)
    weight = weight if swapped else weight.mT  # "output channel place"
    found = layer.map()[0]
    assert found.shape[-1] == weight.shape[-1]
    torch.testing.assert_close(found[0].permute(1, 0, 2).float(), weight)


class Windows(nn.Module):
    """A convolution over tokens, some zeros around them, and padding of its own."""

    def __init__(self, before, behind, padding):
        super().__init__()
        self.embed, self.sizes = nn.Linear(3, WIDTH), (0, 0, before, behind)
        self.over = nn.Conv1d(WIDTH, WIDTH, 3, padding=padding, groups=WIDTH, bias=False)

    def forward(self, x):
        return self.over(nn.functional.pad(self.embed(x), self.sizes).mT).mT


@pytest.mark.parametrize(
    ("before", "behind", "padding"), [(0, 2, "same"), (2, 0, "same"), (1, 1, 1)]
)
def test_places_beyond_the_tokens_are_rows_where_these_move_them(before, behind, padding):
    model = drawn(Windows(before, behind, padding))
    x = torch.randn(2, TOKENS, 3, generator=torch.Generator().manual_seed(0))
    found = dsf.inspect(model, x)
    (layer,) = found
    assert layer.is_exact
    assert not found.unsupported
    values = nn.functional.pad(model.embed(x), model.sizes)
    moved = torch.einsum("bctr,brc->btc", layer.map().float(), values)
    torch.testing.assert_close(moved, model(x))


class Sums(nn.Module):
    def forward(self, x):
        return x.cumsum(dim=1)


def test_zeros_beyond_the_tokens_that_none_moves_are_no_rows():
    model = drawn(Windows(2, 0, 0))
    model.over = Along(Sums())
    (layer,) = dsf.inspect(model, torch.randn(2, TOKENS, 3))
    assert layer.map().shape[-2:] == (TOKENS, TOKENS)


class OverFrames(nn.Module):
    """A causal convolution over the frames of several points, then a sum over these points."""

    def __init__(self, points, taps):
        super().__init__()
        self.embed, self.taps = nn.Linear(3, WIDTH), taps
        self.over = nn.Conv2d(WIDTH, WIDTH, (1, taps), groups=WIDTH, bias=False)
        self.among = Among(points)

    def forward(self, x):
        before = nn.functional.pad(self.embed(x).permute(0, 3, 1, 2), (self.taps - 1, 0))
        return self.among(self.over(before))


class Among(nn.Module):
    def __init__(self, points):
        super().__init__()
        self.weights = nn.Parameter(torch.empty(points, points))

    def forward(self, x):
        return torch.einsum("nm,bcmt->bcnt", self.weights, x.tanh())


@pytest.mark.parametrize("taps", [2, 3])
def test_frames_behind_padding_belong_to_their_points(taps):
    points, model = 4, drawn(OverFrames(4, taps))
    found = dsf.inspect(model, torch.randn(2, points, TOKENS, 3))
    assert [layer.name for layer in found] == ["over", "among"]
    assert all(layer.is_exact for layer in found)
    assert not found.unsupported
    expected, mixing = model.among.weights.detach(), found[1].map().float()
    torch.testing.assert_close(mixing, expected.expand_as(mixing), atol=1e-6, rtol=0)
    assert mixing.shape[0] == 2 * TOKENS


@pytest.mark.parametrize("is_first", [False, True])
def test_a_place_of_no_token_is_one_of_no_input(is_first):
    """Tokens and their groups lie side by side, with zeros around both."""
    tokens, groups = (numbered(torch.zeros(4), name) for name in ("tokens", "groups"))
    lines = [torch.tensor([NONE, 0, 1, 2, 3, NONE]), torch.full((6,), NONE)]
    planes = {}
    for each, parts in ((tokens, lines), (groups, lines[::-1])):
        planes[next(iter(each.planes))] = torch.stack(parts, dim=-1)
    planes = planes if is_first else dict(reversed(planes.items()))
    found = Coordinates(torch.Size([6, 2]), planes)
    given = (torch.zeros(6, 2),)
    recording = recorded(nn.Tanh(), given, {}, functions={}, known=lambda _: found)
    call = FollowedCall(recording, [found], ["x"], 0.0, frozenset(planes))
    others = call._others(recording.given[0])
    assert others.tolist() == [[True] * 2, *[[False] * 2] * 4, [True] * 2]
