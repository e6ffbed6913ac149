"""Attention written in other ways: laid out differently, with shared keys, without a softmax."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import SIZE, WIDTH, Attention, drawn, in_heads, merged, tokens


class TimeFirstScores(Attention):
    """Scores laid out ``query key sample head`` and normalised over their second axis."""

    def forward(self, x):
        q, k, v = (
            one(x.transpose(0, 1)).unflatten(-1, (SIZE, -1)) for one in (self.q, self.k, self.v)
        )
        scores = torch.einsum("ibhd,jbhd->ijbh", q, k) * q.shape[-1] ** -0.5
        weights = scores.softmax(dim=1)
        return self.o(torch.einsum("ijbh,jbhd->ibhd", weights, v).flatten(2)).transpose(0, 1)


class KeysFirstScores(Attention):
    """The same with keys as the first operand."""

    def forward(self, x):
        q, k, v = (
            one(x.transpose(0, 1)).unflatten(-1, (SIZE, -1)) for one in (self.q, self.k, self.v)
        )
        weights = (torch.einsum("jbhd,ibhd->jibh", k, q) * q.shape[-1] ** -0.5).softmax(dim=0)
        return self.o(torch.einsum("jibh,jbhd->ibhd", weights, v).flatten(2)).transpose(0, 1)


class WithEllipsis(Attention):
    """Einsums whose leading axes are dots."""

    def forward(self, x):
        q, k, v = self.parts(x)
        weights = (torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.o(merged(torch.einsum("... i j, ... j d -> ... i d", weights, v)))


class SharedKeys(Attention):
    """One head of keys and values for all heads of queries, by einsums that leave the axis out."""

    def __init__(self, **options):
        super().__init__(**options)
        self.k, self.v = nn.Linear(WIDTH, SIZE), nn.Linear(WIDTH, SIZE)

    def forward(self, x):
        q, k, v = in_heads(self.q(x)), self.k(x), self.v(x)
        weights = (torch.einsum("bhid,bjd->bhij", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.o(merged(torch.einsum("bhij,bjd->bhid", weights, v)))

    def weights(self, x):
        with torch.no_grad():
            q, k = in_heads(self.q(x)).double(), self.k(x).double()
            return (q @ k.mT.unsqueeze(1) * q.shape[-1] ** -0.5).softmax(dim=-1)


class HeadsBehindQueries(SharedKeys):
    """The same keys for all heads, which stand behind the queries: ``sample query head key``."""

    def scored(self, q, k, v):
        weights = (torch.einsum("bihd,bjd->bihj", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return torch.einsum("bihj,bjd->bihd", weights, v)

    def forward(self, x):
        queries = self.q(x).unflatten(-1, (SIZE, -1))
        return self.o(self.scored(queries, self.k(x), self.v(x)).flatten(2))


class HeadsBehindQueriesByProducts(HeadsBehindQueries):
    """The same with products of matrices."""

    def scored(self, q, k, v):
        scores = q @ k.mT.unsqueeze(1) * q.shape[-1] ** -0.5
        return scores.softmax(dim=-1) @ v.unsqueeze(1)


class HeadsBehindQueriesFused(HeadsBehindQueries):
    """The same by fused attention, for which the queries are samples."""

    def scored(self, q, k, v):
        k, v = (part.unsqueeze(1).expand(-1, q.shape[1], -1, -1) for part in (k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    "kind",
    [
        TimeFirstScores,
        KeysFirstScores,
        WithEllipsis,
        SharedKeys,
        HeadsBehindQueries,
        HeadsBehindQueriesByProducts,
        HeadsBehindQueriesFused,
    ],
)
def test_the_map_of_attention_in_another_layout(kind):
    model, x = drawn(kind()), tokens()
    inspection = dsf.inspect(model, x)
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported
    torch.testing.assert_close(inspection[0].map(), model.weights(x), atol=1e-5, rtol=1e-5)


class Unnormalised(Attention):
    """Scores that no softmax normalises: squares, a sigmoid, or a decay with the distance."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def scored(self, q, k):
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if self.kind == "squares":
            return scores.relu().square()
        if self.kind == "sigmoid":
            return scores.sigmoid()
        place = torch.arange(scores.shape[-1])
        lag = place[:, None] - place
        return scores * torch.where(lag >= 0, 0.9 ** lag.clamp(min=0), 0.0)

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged(self.scored(q, k) @ v))


@pytest.mark.parametrize("steps", [SIZE, WIDTH])
@pytest.mark.parametrize("kind", ["squares", "sigmoid", "decay"])
def test_scores_without_a_softmax_are_a_map(kind, steps):
    """As many tokens as channels of a head: scores and responses have one shape."""
    model, x = drawn(Unnormalised(kind)), tokens(SIZE, steps, WIDTH)
    inspection = dsf.inspect(model, x)
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported
    q, k, _ = model.parts(x)
    torch.testing.assert_close(inspection[0].map().float(), model.scored(q, k).detach())


class InBlocks(Attention):
    """Keys come in blocks as wide as a head, and a running largest score keeps numbers small."""

    def forward(self, x):
        q, k, v = self.parts(x)
        largest, above, below = torch.full((*q.shape[:-1], 1), -1e9), 0, 0
        for start in range(0, k.shape[2], SIZE):
            block = slice(start, start + SIZE)
            scores = q @ k[:, :, block].mT * q.shape[-1] ** -0.5
            new = torch.maximum(largest, scores.amax(-1, keepdim=True))
            weights, smaller = (scores - new).exp(), (largest - new).exp()
            above = above * smaller + weights @ v[:, :, block]
            below = below * smaller + weights.sum(-1, keepdim=True)
            largest = new
        return self.o(merged(above / below))


def test_a_softmax_in_blocks_is_one_map():
    model, x = drawn(InBlocks()), tokens()
    (layer,) = dsf.inspect(model, x)
    assert layer.is_exact
    torch.testing.assert_close(layer.map(), model.weights(x), atol=1e-5, rtol=1e-5)


class SumsFirst(Attention):
    """Keys and values are multiplied first: what meets the queries is no map of tokens."""

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged(q.softmax(dim=-1) @ (k.softmax(dim=-2).mT @ v)))


def test_a_product_of_keys_and_values_is_not_taken_for_weights():
    model, x = drawn(SumsFirst()), tokens()
    (layer,) = dsf.inspect(model, x)
    q, k, _ = (part.detach().double() for part in model.parts(x))
    assert layer.family == "probed"
    expected = q.softmax(dim=-1) @ k.softmax(dim=-2).mT
    torch.testing.assert_close(layer.map(), expected, atol=1e-5, rtol=1e-5)


class SoftCap(Attention):
    """A cap of the scores in a compiled function of torch."""

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged(_capped(q @ k.mT).softmax(dim=-1) @ v))


@torch.jit.script
def _capped(scores: torch.Tensor) -> torch.Tensor:
    return 5.0 * (scores / 5.0).tanh()


def test_scores_that_a_compiled_function_caps_stay_a_map():
    inspection = dsf.inspect(drawn(SoftCap()), tokens())
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported


class Experts(nn.Module):
    """Slots of several experts, whose scores are merged into one axis (soft mixtures)."""

    def __init__(self):
        super().__init__()
        self.slots = nn.Parameter(torch.zeros(2, 3, WIDTH))

    def forward(self, x):
        scores = torch.einsum("bnd,esd->bnes", x, self.slots).flatten(2)
        slots = torch.einsum("bnd,bns->bsd", x, scores.softmax(dim=1))
        return torch.einsum("bsd,bns->bnd", slots.tanh(), scores.softmax(dim=-1))


def test_merged_axes_of_scores_end_no_inspection():
    x, experts = tokens(), Experts()
    inspection = dsf.inspect(drawn(nn.Sequential(Attention(), experts)), x, probe=())
    assert inspection[0].name == "0"
    assert "1" in [missed.name for missed in inspection.unsupported]


def test_slots_of_experts_are_made_by_one_map_and_read_by_another():
    experts, x = drawn(Experts()), tokens()
    found = dsf.inspect(nn.Sequential(experts), x)
    made, read = sorted(found, key=lambda layer: layer.columns != "token")
    scores = torch.einsum("bnd,esd->bnes", x, experts.slots).flatten(2).detach().double()
    expected = scores.softmax(dim=1).mT
    torch.testing.assert_close(made.map().squeeze(2), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(read.map().squeeze(1), scores.softmax(dim=-1), atol=1e-6, rtol=0)
    assert (made.columns, read.columns) == ("token", "slot")
    assert made.is_exact
    assert read.is_exact


class WithoutItself(Attention):
    """Attention that writes over the score of every token with itself, and returns its weights."""

    def __init__(self, way):
        super().__init__(is_fused=False)
        self.way = way

    def forward(self, x):
        q, k, v = self.parts(x)
        scores, places = q @ k.mT * q.shape[-1] ** -0.5, torch.arange(x.shape[1])
        if self.way == "assigned":
            scores[..., places, places] = -5e4
        elif self.way == "filled":
            scores.diagonal(dim1=-2, dim2=-1).fill_(-5e4)
        else:
            scores = scores.scatter(-1, places.expand_as(scores[..., 0]).unsqueeze(-1), -5e4)
        weights = scores.softmax(dim=-1)
        return self.o(merged(weights @ v)), weights


@pytest.mark.parametrize("way", ["assigned", "filled", "scattered"])
def test_weights_are_returned_whose_scores_were_written_into(way):
    inspection = dsf.inspect(drawn(WithoutItself(way)), tokens())
    assert not inspection.unsupported
    assert inspection[0].is_exact


class AlsoSummed(Attention):
    """Attention that also returns sums over tokens, in the memory of its scores."""

    def __init__(self, place):
        super().__init__(is_fused=False)
        self.place = place

    def forward(self, x):
        q, k, v = self.parts(x)
        scores, steps = q @ k.mT * q.shape[-1] ** -0.5, x.shape[1]
        other = scores[:, 0].clone()
        other[:, self.place] = x.cumsum(dim=1)[:, self.place, :steps]
        return self.o(merged(scores.softmax(dim=-1) @ v)), other


@pytest.mark.parametrize("place", [torch.arange(WIDTH), slice(2, 5)], ids=["index", "slice"])
def test_what_is_written_over_scores_is_no_map(place):
    module = drawn(AlsoSummed(place))
    assert tokens().shape[1] == WIDTH
    assert dsf.inspect(module, tokens(), probe=()).unsupported


class WeightsGathered(Attention):
    """Attention of two halves that also returns its weights, written into zeros one by one."""

    def __init__(self, way):
        super().__init__(is_fused=False)
        self.way = way

    def forward(self, x):
        q, k, v = self.parts(x)
        steps = x.shape[1]
        weights, mixed = q.new_zeros(*q.shape[:3], steps), []
        for rows in torch.arange(steps).chunk(2):
            some = (q[:, :, rows] @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
            mixed.append(some @ v)
            if self.way == "slice":
                weights[:, :, rows[0] : rows[-1] + 1] = some
            else:
                weights[:, :, rows] = some
        return self.o(merged(torch.cat(mixed, dim=2))), weights


@pytest.mark.parametrize("way", ["slice", "index"])
def test_weights_are_returned_that_were_written_into_zeros(way):
    inspection = dsf.inspect(drawn(WeightsGathered(way)), tokens())
    assert not inspection.unsupported
    assert inspection[0].is_exact


class PointsInValues(Attention):
    """Attention whose values are points, with an axis of their own, added to usual ones."""

    def forward(self, x):
        q, k, v = (part.flatten(0, 1) for part in self.parts(x))
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
        points = torch.einsum("mij,mjdc->midc", weights, v.unflatten(-1, (2, -1)) ** 2)
        mixed = torch.einsum("mij,mjd->mid", weights, v) + points.flatten(2)
        return self.o(merged(mixed.unflatten(0, (x.shape[0], -1))))


def test_values_with_further_axes_are_read_or_listed():
    inspection = dsf.inspect(drawn(PointsInValues()), tokens(2, 6, WIDTH))
    assert inspection.unsupported or inspection[0].is_exact


class InBands(Attention):
    """Rows in two blocks, with a mask of pairs in five axes."""

    def forward(self, x, mask):
        (q, k, v), mixed = self.parts(x), []
        for number, rows in enumerate(torch.arange(x.shape[1]).chunk(2)):
            scores = q[:, :, rows] @ k.mT * q.shape[-1] ** -0.5
            scores = scores + (1 - mask[:, :, number]) * -1e4
            mixed.append(scores.softmax(dim=-1) @ v)
        return merged(torch.cat(mixed, dim=2))


class Banded(nn.Module):
    """A model that makes the mask of its attention of nothing."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = InBands(is_fused=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        samples, steps = x.shape[:2]
        return self.last(self.inner(x, torch.ones(samples, 1, 2, steps // 2, steps)))


def test_a_mask_that_a_model_makes_of_nothing_has_no_tokens():
    inspection = dsf.inspect(drawn(Banded()), tokens(2, 6, WIDTH))
    assert not inspection.unsupported
    assert inspection[0].is_exact


class Tied(Attention):
    """The rows of an alignment share one map, of the scores of all of them."""

    def weights(self, x):
        q, k = (one(x).unflatten(-1, (SIZE, -1)) for one in (self.q, self.k))
        return (torch.einsum("brihd,brjhd->bhij", q, k) / WIDTH).softmax(dim=-1)

    def forward(self, x):
        v = self.v(x).unflatten(-1, (SIZE, -1))
        return self.o(torch.einsum("bhij,brjhd->brihd", self.weights(x), v).flatten(3))


class TiedByMatrix(Tied):
    """The same by a matrix product."""

    def forward(self, x):
        v = self.v(x).unflatten(-1, (SIZE, -1)).transpose(2, 3)
        return self.o((self.weights(x)[:, None] @ v).transpose(2, 3).flatten(3))


@pytest.mark.parametrize("form", [Tied, TiedByMatrix])
@pytest.mark.parametrize("rows", [1, 3, SIZE])
def test_rows_of_an_alignment_may_share_one_map(form, rows):
    module, x = drawn(form()), tokens(2, rows, 5, WIDTH)
    inspection = dsf.inspect(nn.Sequential(module), x)
    (layer,) = inspection
    assert layer.is_exact
    assert not inspection.unsupported
    expected = module.weights(x).double().repeat_interleave(rows, dim=0)
    torch.testing.assert_close(layer.map().flatten(0, -4), expected, atol=1e-6, rtol=0)
