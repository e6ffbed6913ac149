"""Sums over groups of tokens: a group around each is a mixer, however its code makes the windows.

Groups that become fewer tokens are what a front end makes; channels that hold other tokens than
their neighbours are no groups.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.any_code.test_promise import answered, drawn, inspected

STEPS, WIDTH = 12, 8
TAPS = torch.tensor([0.2, 0.5, -0.3])
X = drawn(2, STEPS, WIDTH)


def _padded(x, left, right):
    return functional.pad(x, (0, 0, left, right))


def _strided(x):
    x = _padded(x, 2, 0).contiguous()
    samples, step, one = x.stride()
    return x.as_strided((len(x), STEPS, 3, WIDTH), (samples, step, step, one))


NEIGHBOURS = (torch.arange(STEPS)[:, None] + torch.tensor([0, 5, 7])) % STEPS
AROUND_EACH = {
    "unfolded, weighted": lambda x: (_padded(x, 1, 1).unfold(1, 3, 1) * TAPS).sum(-1),
    "unfolded, past alone": lambda x: _padded(x, 2, 0).unfold(1, 3, 1).mean(-1),
    "unfolded, future alone": lambda x: _padded(x, 0, 2).unfold(1, 3, 1).amax(-1),
    "as strided": lambda x: _strided(x).sum(2),
    "stacked shifts": lambda x: torch.stack([x, x.roll(1, 1), x.roll(2, 1)], 2).mean(2),
    "neighbours of each": lambda x: x[:, NEIGHBOURS].mean(2),
    "most of neighbours": lambda x: x[:, NEIGHBOURS].amax(2),
}


class Between(nn.Module):
    """Something between two projections, and a mixer that is read."""

    def __init__(self, inner):
        super().__init__()
        self.before, self.inner = nn.Linear(WIDTH, WIDTH), Inner(inner)
        self.mix = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        x = self.inner(self.before(x))
        return self.mix(x, x, x, need_weights=False)[0]


class Inner(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


@pytest.mark.parametrize("way", AROUND_EACH)
def test_sums_over_a_group_around_each_token_are_read_or_listed(way):
    inspection = inspected(Between(AROUND_EACH[way]), X)
    assert answered(inspection) == {"inner", "mix"}
    assert inspection["mix"].system.steps == STEPS


@pytest.mark.parametrize("way", ["unfolded, weighted", "as strided", "neighbours of each"])
def test_what_is_linear_has_the_map_of_its_windows(way):
    model = Between(AROUND_EACH[way])
    layer = inspected(model, X)["inner"]
    bases = torch.eye(STEPS)[None, :, :, None].expand(-1, -1, -1, WIDTH)
    columns = [model.inner(basis)[0, :, 0] for basis in bases.unbind(2)]
    expected = torch.stack(columns, dim=1)
    torch.testing.assert_close(layer.map().float(), expected.expand_as(layer.map()))


def test_channels_that_hold_other_tokens_are_no_groups():
    class Pooled(nn.Module):
        """The mean of tokens, of which half of the channels were shifted by one."""

        def __init__(self):
            super().__init__()
            self.weigh = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            half = WIDTH // 2
            x = torch.cat([x[..., :half], _padded(x, 1, 0)[:, :-1, half:]], dim=-1)
            return x * torch.sigmoid(self.weigh(x.mean(1, keepdim=True)))

    inspection = inspected(Between(Pooled()), X)
    assert {"inner.run"} <= answered(inspection)
    assert "inner.run.weigh" not in {layer.name for layer in inspection}


HALVES = {
    "pooled and repeated": lambda x: functional.avg_pool1d(x.mT, 2).repeat_interleave(2, -1).mT,
    "pooled and interpolated": lambda x: (
        functional.interpolate(functional.avg_pool1d(x.mT, 2), size=STEPS).mT
    ),
    "strided and transposed": lambda x: (
        functional.conv_transpose1d(
            functional.conv1d(x.mT, torch.ones(1, 1, 2).expand(WIDTH, 1, 2), None, 2, 0, 1, WIDTH),
            torch.ones(1, 1, 2).expand(WIDTH, 1, 2),
            None,
            2,
            groups=WIDTH,
        ).mT
    ),
    "means of pairs, repeated": lambda x: x.unflatten(1, (-1, 2)).mean(2).repeat_interleave(2, 1),
}


@pytest.mark.parametrize("way", HALVES)
def test_tokens_that_are_as_many_again_were_mixed(way):
    assert {"inner", "mix"} <= answered(inspected(Between(HALVES[way]), X))


UNBATCHED = {
    "means of pairs, repeated": lambda x: x.unflatten(0, (-1, 2)).mean(1).repeat_interleave(2, 0),
    "chosen again": lambda x: x.unflatten(0, (-1, 2)).mean(1)[torch.arange(STEPS) // 2],
    "pooled and repeated": lambda x: functional.avg_pool1d(x.mT, 2).repeat_interleave(2, -1).mT,
}


@pytest.mark.parametrize("way", UNBATCHED)
def test_tokens_of_one_sequence_without_a_sample_axis_were_mixed(way):
    assert {"inner", "mix"} <= answered(inspected(Between(UNBATCHED[way]), X[0]))


UNKNOWN_PLACES = {
    "sums of neighbours, ends repeated": lambda x: (
        torch.cat([x[:, :1], x[:, :-1]], 1) + torch.cat([x[:, 1:], x[:, -1:]], 1)
    ),
    "sorted in every channel": lambda x: x.sort(1).values,
    "largest in every channel": lambda x: x.topk(3, 1).values,
}
MIX_PLACES = {
    "convolution": lambda x: functional.avg_pool1d(x.mT, 3, 1, 1).mT,
    "sums": lambda x: x.cumsum(1),
    "without the mean": lambda x: x - x.mean(1, keepdim=True),
}
BETWEEN = {"weights": lambda: nn.Linear(WIDTH, WIDTH), "no weights": nn.Tanh}


@pytest.mark.parametrize("mix", MIX_PLACES)
@pytest.mark.parametrize("way", UNKNOWN_PLACES)
def test_places_that_are_made_of_unknown_tokens_are_mixed_again(way, mix):
    inner = nn.Sequential(
        Inner(UNKNOWN_PLACES[way]), nn.Linear(WIDTH, WIDTH), Inner(MIX_PLACES[mix])
    )
    assert {"inner.run.0", "inner.run.2", "mix"} <= answered(inspected(Between(inner), X))


ONE, OTHER = torch.triu_indices(STEPS, STEPS)


class Edges(nn.Module):
    """Features of two tokens each, together through weights, as messages of a graph are."""

    def __init__(self, lands):
        super().__init__()
        self.weigh, self.lands = nn.Linear(2 * WIDTH, WIDTH), lands

    def forward(self, x):
        edges = torch.tanh(self.weigh(torch.cat([x[:, ONE], x[:, OTHER]], dim=-1)))
        return self.lands(edges)


LANDS = {
    "as they are": lambda edges: edges,
    "some of them": lambda edges: edges[:, ::3],
    "added up at one end": lambda edges: torch.zeros(2, STEPS, WIDTH).index_add(1, ONE, edges),
    "scattered to one end": lambda edges: torch.zeros(2, STEPS, WIDTH).scatter_add(
        1, ONE[None, :, None].expand_as(edges), edges
    ),
    "put at one end": lambda edges: torch.zeros(2, STEPS, WIDTH).index_put(
        (torch.arange(2)[:, None], ONE[None]), edges, accumulate=True
    ),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("mix", MIX_PLACES)
@pytest.mark.parametrize("lands", LANDS)
def test_edges_of_two_tokens_are_mixed_again(lands, mix, between):
    inner = nn.Sequential(Edges(LANDS[lands]), BETWEEN[between](), Inner(MIX_PLACES[mix]))
    found = answered(inspected(Between(inner), X))
    assert {"inner.run.2", "mix"} <= found
    assert found & {"inner.run.0", "inner.run.0.weigh"}


def _in_halves(x):
    return x.unflatten(1, (4, -1))


SCORE = drawn(WIDTH, 1)
CLUSTERS = torch.arange(STEPS).unflatten(0, (2, -1)).repeat_interleave(6, 0)
SUMS_OF_EACH = {
    "a gram matrix of each": lambda x: (_in_halves(x).mT @ _in_halves(x)).mean(-1),
    "weighted by scores": lambda x: torch.einsum(
        "ngw,ngwc->ngc", (_in_halves(x) @ SCORE)[..., 0].softmax(2), _in_halves(x)
    ),
    "clusters that share their tokens": lambda x: (
        (x[:, CLUSTERS] @ SCORE).softmax(2).mT @ x[:, CLUSTERS]
    ).squeeze(2),
}
MANY_EACH = {
    "sums of lists of tokens": lambda x: torch.stack(
        torch._foreach_add(x.unbind(1), x.roll(3, 1).unbind(1)), 1
    ),
    "products of lists of tokens": lambda x: torch.stack(
        torch._foreach_mul(x.unbind(1), x.flip(1).unbind(1)), 1
    ),
    "largest of parts that overlap, stacked": lambda x: torch.stack(
        [x[:, start : start + 4].amax(1) for start in range(0, STEPS - 3, 2)], 1
    ),
    "weighted sums in a row": lambda x: torch.stack(
        [(x * (x * k).softmax(1)).sum(1) for k in (1.0, 2.0, 3.0)], 1
    ),
    "means of beginnings, in a row": lambda x: torch.cat(
        [x[:, :last].mean(1, keepdim=True) for last in (1, 4, 9, STEPS)], 1
    ),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("mix", MIX_PLACES)
@pytest.mark.parametrize("way", SUMS_OF_EACH)
def test_products_that_sum_tokens_of_a_group_each_are_mixed_again(way, mix, between):
    sums = Inner(SUMS_OF_EACH[way])
    inner = nn.Sequential(sums, BETWEEN[between](), Inner(MIX_PLACES[mix]))
    assert {"inner.run.0", "inner.run.2", "mix"} <= answered(inspected(Between(inner), X))


TWICE = {
    "sums": lambda x: torch.cat([x, x.flip(1)], 1) + torch.cat([x.roll(1, 1), x], 1),
    "the larger ones": lambda x: torch.maximum(
        torch.cat([x, x], 1), torch.cat([x.flip(1), x.roll(2, 1)], 1)
    ),
    "products, one more": lambda x: (
        torch.cat([x, x[:, :1]], 1) * torch.cat([x[:, -1:], x.flip(1)], 1)
    ),
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("mix", MIX_PLACES)
@pytest.mark.parametrize("way", TWICE)
def test_more_places_than_tokens_are_mixed_again(way, mix, between):
    inner = nn.Sequential(Inner(TWICE[way]), BETWEEN[between](), Inner(MIX_PLACES[mix]))
    assert {"inner.run.0", "inner.run.2", "mix"} <= answered(inspected(Between(inner), X))


@pytest.mark.parametrize("way", MANY_EACH)
def test_places_that_are_made_of_many_tokens_each_are_mixed_again(way):
    mix = Inner(MIX_PLACES["convolution"])
    inner = nn.Sequential(Inner(MANY_EACH[way]), nn.Linear(WIDTH, WIDTH), mix)
    assert {"inner.run.2", "mix"} <= answered(inspected(Between(inner), X))


class Latents(nn.Module):
    """Learnt queries, or clusters, that read all tokens."""

    def __init__(self, read, count):
        super().__init__()
        self.read, self.queries = read, nn.Parameter(torch.zeros(count, WIDTH))
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.cluster = nn.Linear(WIDTH, count)

    def forward(self, x):
        return self.read(self, self.queries.expand(len(x), -1, -1), x)


LATENTS = {
    "softmax by hand": lambda m, q, x: (q @ m.key(x).mT).softmax(-1) @ m.value(x),
    "einsum": lambda m, q, x: torch.einsum(
        "nqt,ntw->nqw", torch.einsum("nqw,ntw->nqt", q, m.key(x)).sigmoid(), m.value(x)
    ),
    "clusters over tokens": lambda m, _, x: m.cluster(x).softmax(1).mT @ m.value(x),
    "clusters of each token": lambda m, _, x: m.cluster(x).softmax(2).mT @ m.value(x),
}


@pytest.mark.parametrize("count", [4, STEPS])
@pytest.mark.parametrize("mix", MIX_PLACES)
@pytest.mark.parametrize("way", LATENTS)
def test_what_products_make_of_all_tokens_is_mixed_again(way, mix, count):
    latents, mixer = Latents(LATENTS[way], count), Inner(MIX_PLACES[mix])
    inner = nn.Sequential(latents, nn.Linear(WIDTH, WIDTH), mixer)
    inspection = inspected(Between(inner), X)
    assert {"inner.run.0", "inner.run.2", "mix"} <= answered(inspection)
    assert all((layer.row_tokens < 0).all() for layer in inspection if layer.name == "mix")


STATES = {
    "kernel": lambda q, k, v: q.exp() @ (k.exp().mT @ v),
    "keys that sum to one": lambda q, k, v: q.softmax(-1) @ (k.softmax(1).mT @ v),
    "over channels": lambda q, k, v: ((k.mT @ q).softmax(-2).mT @ v.mT).mT,
    "normed state": lambda q, k, v: q @ functional.normalize(k.mT @ v, dim=-1),
    "decayed state": lambda q, k, v: q @ ((k.mT @ v) * torch.linspace(0.5, 1, WIDTH)[:, None]),
}


class State(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run, self.qkv = run, nn.Linear(WIDTH, 3 * WIDTH)
        self.norm, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.out(torch.tanh(self.norm(self.run(*self.qkv(x).chunk(3, dim=-1)))))


@pytest.mark.parametrize("way", STATES)
def test_rows_of_a_state_are_features_of_the_tokens_that_read_it(way):
    inspection = inspected(Between(State(STATES[way])), X)
    assert {layer.name for layer in inspection} == {"inner.run", "mix"}
    assert not inspection.unsupported


def test_the_smallest_of_each_group_are_mixed_again():
    smallest, mix = (
        Inner(lambda x: _in_halves(x).sort(2).values[:, :, 0]),
        Inner(MIX_PLACES["sums"]),
    )
    inner = nn.Sequential(smallest, nn.Linear(WIDTH, WIDTH), mix)
    assert {"inner.run.2", "mix"} <= answered(inspected(Between(inner), X))


class Itself(nn.Module):
    """A model that makes places of unknown tokens in its own forward pass, for an attention."""

    def __init__(self, run):
        super().__init__()
        self.before, self.weigh = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.run, self.mix = run, nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        x = self.run(self, self.before(x))
        return self.mix(x, x, x, need_weights=False)[0]


def _by_itself(run):
    return lambda _, x: run(x)


def _edges_to(lands):
    return lambda model, x: lands(model.weigh(torch.cat([x[:, ONE], x[:, OTHER]], dim=-1)))


MADE = UNKNOWN_PLACES | SUMS_OF_EACH | MANY_EACH | TWICE
ITSELF = {way: _by_itself(run) for way, run in MADE.items()}
ITSELF |= {way: _edges_to(lands) for way, lands in LANDS.items()}


@pytest.mark.parametrize("way", ITSELF)
def test_a_model_that_makes_places_of_unknown_tokens_itself_is_listed(way):
    found = answered(inspected(Itself(ITSELF[way]), X))
    assert "mix" in found
    assert found & {"Itself", "weigh"}


class Plain(nn.Module):
    """A mixer of channels first between tokens."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.mT).mT


class Level(nn.Module):
    """A level of a U-Net, each part of which is a module: fewer tokens, as many again, both."""

    def __init__(self, down, up, join, *, is_mixed):
        super().__init__()
        self.before, self.down, self.up = nn.Linear(WIDTH, WIDTH), down, up
        convolution = Plain(nn.Conv1d(WIDTH, WIDTH, 3, padding=1)) if is_mixed else nn.Identity()
        self.between, self.join, self.act = convolution, Join(join), nn.GELU()

    def forward(self, x):
        x = self.act(self.before(x))
        return self.act(self.join(x, self.act(self.up(self.act(self.between(self.down(x)))))))


class Join(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x, y):
        return self.run(x, y)


FEWER = {
    "means of pairs": lambda: Inner(lambda x: x.unflatten(1, (-1, 2)).mean(2)),
    "pooled": lambda: Plain(nn.AvgPool1d(2)),
    "strided, overlapping": lambda: Plain(nn.Conv1d(WIDTH, WIDTH, 3, 2, 1)),
}
AS_MANY = {
    "repeated": lambda: Inner(lambda x: x.repeat_interleave(2, 1)),
    "transposed": lambda: Plain(nn.ConvTranspose1d(WIDTH, WIDTH, 2, 2)),
}
JOINED = {"added": torch.add, "gated": lambda x, y: x * y.sigmoid()}


@pytest.mark.parametrize("join", JOINED)
@pytest.mark.parametrize("up", AS_MANY)
@pytest.mark.parametrize("down", FEWER)
@pytest.mark.parametrize("is_mixed", [False, True], ids=["", "mixed between"])
def test_groups_that_meet_tokens_in_a_further_module_were_made_by_a_mixer(down, up, join, is_mixed):
    level = Level(FEWER[down](), AS_MANY[up](), JOINED[join], is_mixed=is_mixed)
    inspection = inspected(level, X)
    assert {name.partition(".")[0] for name in answered(inspection)} >= {"down"}
    (layer,) = (layer for layer in inspection if layer.name.startswith("down"))
    assert layer.column_tokens.eq(torch.arange(STEPS)).all()


class Convolved(nn.Module):
    """A convolution over tokens that groups of them were added to."""

    def __init__(self, groups):
        super().__init__()
        self.before, self.groups = nn.Linear(WIDTH, WIDTH), Inner(groups)
        self.inner = Plain(nn.Conv1d(WIDTH, WIDTH, 3, padding=1))

    def forward(self, x):
        x = self.before(x)
        return self.inner((x + self.groups(x)).sigmoid()).sigmoid()


OF_GROUPS = {
    "means of pairs, repeated": HALVES["means of pairs, repeated"],
    "pooled and repeated": HALVES["pooled and repeated"],
    "pooled, chosen again": lambda x: (
        functional.avg_pool1d(x.mT, 3)[..., torch.arange(STEPS) // 3].mT
    ),
    "means of pairs of pairs, repeated": lambda x: (
        x.unflatten(1, (-1, 2)).mean(2).unflatten(1, (-1, 2)).mean(2).repeat_interleave(4, 1)
    ),
}


@pytest.mark.parametrize("way", OF_GROUPS)
def test_tokens_that_groups_were_added_to_keep_their_numbers(way):
    layer = inspected(Convolved(OF_GROUPS[way]), X)["inner.inner"]
    for tokens in (layer.row_tokens, layer.column_tokens):
        assert tokens.eq(torch.arange(STEPS)).all()


class Beside(Level):
    """A level whose groups lie beside the tokens that they were added to, as further channels."""

    def __init__(self, down, up, join, *, is_first):
        super().__init__(down, up, join, is_mixed=True)
        self.is_first = is_first
        self.both = Plain(nn.Conv1d(2 * WIDTH, WIDTH, 3, padding=1))

    def forward(self, x):
        x = self.act(self.before(x))
        y = self.act(self.up(self.act(self.between(self.down(x)))))
        both = [y, self.join(x, y)] if self.is_first else [self.join(x, y), y]
        return self.act(self.both(torch.cat(both, -1)))


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("join", JOINED)
def test_groups_beside_tokens_that_they_were_added_to_are_mixed_with_them(join, is_first):
    parts = FEWER["strided, overlapping"](), AS_MANY["transposed"](), JOINED[join]
    model = Beside(*parts, is_first=is_first)
    layer = inspected(model, X)["both.inner"]
    kernel = model.both.inner.weight.double()
    for shift in (-1, 0, 1):
        steps = torch.arange(max(-shift, 0), STEPS - max(shift, 0))
        found = layer.map()[..., steps, steps + shift]
        expected = kernel[..., shift + 1, None].expand(2, -1, -1, len(steps))
        torch.testing.assert_close(found, expected)


class Patches(nn.Module):
    """Patches that are given as samples become tokens of their own, of which each is one."""

    def __init__(self, cut, shrink, count):
        super().__init__()
        self.cut, self.shrink, self.count = cut, shrink, count
        self.project, self.mix = nn.LazyLinear(WIDTH), nn.MultiheadAttention(WIDTH, 2)
        self.mix.batch_first = True

    def forward(self, x):
        x = self.shrink(self.cut(x)).flatten(1).unflatten(0, (-1, self.count))
        x = self.project(x)
        return self.mix(x, x, x, need_weights=False)[0]


def _cut_image(x):
    patches = x.unfold(2, 8, 8).unfold(3, 8, 8)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _cut_series(x):
    return x.unfold(2, 8, 8).transpose(1, 2).flatten(0, 1)


PATCHES = {
    "image, convolution": (_cut_image, lambda: nn.Conv2d(3, 2, 4, 4), (2, 3, 16, 24), 6),
    "image, overlapping": (_cut_image, lambda: nn.Conv2d(3, 2, 3, 2, 1), (2, 3, 16, 24), 6),
    "image, pool": (_cut_image, lambda: nn.MaxPool2d(4), (2, 3, 16, 24), 6),
    "series, convolution": (_cut_series, lambda: nn.Conv1d(3, 2, 4, 4), (2, 3, 40), 5),
    "series, pool": (_cut_series, lambda: nn.AvgPool1d(2), (2, 3, 40), 5),
}


@pytest.mark.parametrize("way", PATCHES)
def test_patches_that_are_given_as_samples_are_tokens(way):
    cut, shrink, shape, count = PATCHES[way]
    model, x = Patches(cut, shrink(), count), drawn(*shape)
    model(x)
    inspection = inspected(model, x)
    assert inspection["mix"].axes == ("sample", "head")
    assert inspection["mix"].system.steps == count
    assert {layer.columns for layer in inspection} == {"token"}
    assert {layer.name for layer in inspection} <= {"mix", "project"}
    assert "mix" not in {one.name for one in inspection.unsupported}


class Asking(nn.Module):
    """Groups ask for the tokens that they are made of, all or their own, and come back to them."""

    def __init__(self, down, *, is_apart):
        super().__init__()
        self.before, self.down, self.is_apart = nn.Linear(WIDTH, WIDTH), down, is_apart
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        x = self.before(x)
        queries, keys, values = self.query(self.down(x)), self.key(x), self.value(x)
        if self.is_apart:
            queries = queries[:, :, None]
            keys, values = (each.unflatten(1, (-1, 2)) for each in (keys, values))
        made = (queries @ keys.mT).softmax(-1) @ values
        return x + (made[:, :, 0] if self.is_apart else made).repeat_interleave(2, 1).tanh()


@pytest.mark.parametrize("is_apart", [True, False])
@pytest.mark.parametrize("down", FEWER)
def test_what_makes_groups_that_ask_for_their_tokens_is_read(down, is_apart):
    inspection = inspected(Asking(FEWER[down](), is_apart=is_apart), X)
    assert any(name.startswith("down") for name in answered(inspection))
