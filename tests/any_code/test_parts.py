"""A map is called all of its module only if a replaced token moves no other in another way."""

import math

import pytest
import torch
from torch import nn

import dsf
from tests.any_code import modules
from tests.any_code.modules import JOINED, MEANS, SIZE, WIDTH, drawn, tokens

PARTS = {
    "convolution": modules.WithConvolution,
    "running mean": modules.WithRunningMean,
    "shift": modules.WithShift,
    "Fourier transform": modules.WithFourier,
    "mean of all tokens": modules.WithChannelMeans,
}


WAYS = pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "own softmax"])


@WAYS
@pytest.mark.parametrize("name", PARTS)
def test_an_attention_and_something_else_is_a_part(name, is_fused):
    module, x = drawn(PARTS[name](is_fused=is_fused)), tokens()
    inspection = dsf.inspect(module, x, probe=())
    layer = inspection[type(module).__name__]
    torch.testing.assert_close(layer.map(), module.weights(x), atol=1e-6, rtol=0)
    assert 0.05 < layer.share < 0.95
    assert not layer.is_exact
    assert "a part" in repr(layer)
    listed = {missed.name: missed.reason for missed in inspection.unsupported}
    assert "only a part of what it does to tokens" in listed[layer.name]
    assert {record["answer"] for record in layer.checks} >= {"a part"}


@pytest.mark.sampled(count=2)
@WAYS
@pytest.mark.parametrize("kind", JOINED)
def test_what_is_linear_in_the_values_joins_the_attention_in_one_map(kind, is_fused):
    module, x = drawn(kind(is_fused=is_fused)), tokens()
    inspection = dsf.inspect(module, x)
    layer = inspection[type(module).__name__]
    torch.testing.assert_close(layer.map(), JOINED[kind](module, x), atol=1e-6, rtol=0)
    assert layer.is_exact
    assert layer.formula < 1e-12
    assert inspection.unsupported == ()


@pytest.mark.sampled
@WAYS
def test_an_attention_and_a_linear_map_of_its_input_are_one_map(is_fused):
    module, x = drawn(modules.WithFourier(is_fused=is_fused)), tokens()
    layer = dsf.inspect(module, x)[0]
    assert layer.is_exact
    through = module.o.weight.detach().double().unflatten(-1, (SIZE, -1))
    values = module.v.weight.detach().double().unflatten(0, (SIZE, -1))
    heads = torch.einsum("ohc,hci->hoi", through, values)
    expected = torch.einsum("hoi,bhtr->boitr", heads, module.weights(x))
    fourier = torch.fft.fft(torch.eye(WIDTH, dtype=torch.float64)).real
    expected = expected + torch.eye(WIDTH)[:, :, None, None] * fourier
    torch.testing.assert_close(layer.map(), expected, atol=1e-6, rtol=0)


def test_what_is_not_linear_in_the_values_leaves_the_attention_a_part():
    inspection = dsf.inspect(drawn(modules.WithChannelMeans()), tokens())
    assert not inspection[0].is_exact
    assert type(inspection[0].mixer).__name__ == "SoftmaxAttention"
    (listed,) = inspection.unsupported
    assert "only a part of what it does to tokens" in listed.reason


def test_the_share_is_that_of_what_a_token_moves():
    """Twice the attention beside the same shift has a larger share, and a formula gives it."""

    class Weighted(modules.WithShift):
        factor = 1.0

        def forward(self, x):
            q, k, v = self.parts(x)
            shifted = torch.nn.functional.pad(v, (0, 0, 1, -1))
            return self.o(modules.merged(self.factor * self.mix(q, k, v) + shifted))

    shares = []
    for factor in (0.1, 1.0, 10.0):
        module = drawn(Weighted())
        module.factor = factor
        shares.append(dsf.inspect(module, tokens(), probe=())[0].share)
    assert shares[0] < shares[1] < shares[2]
    odds = [share / (1 - share) for share in shares]
    assert odds[1] / odds[0] == pytest.approx(10, rel=1e-3)
    assert odds[2] / odds[1] == pytest.approx(10, rel=1e-3)


@WAYS
def test_the_difference_of_two_attentions_is_two_parts(is_fused):
    inspection = dsf.inspect(drawn(modules.Difference(is_fused=is_fused)), tokens(), probe=())
    assert len(inspection) == 2
    assert not any(layer.is_exact for layer in inspection)
    assert sum(layer.share for layer in inspection) == pytest.approx(1.0)
    (listed,) = inspection.unsupported
    assert "made of 2 attentions together" in listed.reason


@pytest.mark.sampled
@WAYS
def test_the_difference_of_two_attentions_is_one_map(is_fused):
    module, x = drawn(modules.Difference(is_fused=is_fused)), tokens()
    (layer,) = dsf.inspect(module, x)
    with torch.no_grad():
        q, k, _ = (part.double() for part in module.parts(x))
        other = (k @ q.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
    torch.testing.assert_close(layer.map(), module.weights(x) - 0.5 * other, atol=1e-6, rtol=0)
    assert layer.is_exact


class Twice(modules.Attention):
    """Two attentions one after the other in one forward pass."""

    def forward(self, x):
        for _ in range(2):
            x = x + self.o(modules.merged(self.mix(*self.parts(x))))
        return x


@WAYS
def test_attentions_one_after_the_other_are_no_parts(is_fused):
    module, x = drawn(Twice(is_fused=is_fused)), tokens()
    inspection = dsf.inspect(module, x)
    assert [layer.is_exact for layer in inspection] == [True, True]
    assert inspection.unsupported == ()
    torch.testing.assert_close(inspection[0].map(), module.weights(x), atol=1e-6, rtol=0)


def test_checks_can_be_left_out():
    module, x = drawn(modules.WithShift()), tokens()
    inspection = dsf.inspect(module, x, checks="none")
    assert math.isnan(inspection[0].share)
    assert len(inspection.checks) == 0
    assert inspection.unsupported == ()
    with pytest.raises(ValueError, match="'few'"):
        dsf.inspect(module, x, checks="few")


def test_what_was_asked_is_a_table():
    inspection = dsf.inspect(drawn(modules.WithShift()), tokens(), probe=())
    (record,) = inspection.checks
    assert record["answer"] == "a part"
    assert record["moved"] > 0.01
    assert "joins different tokens" in record["note"]


class MixedValues(modules.Attention):
    """The values are running means of the tokens before they are mixed by attention."""

    def parts(self, x):
        q, k, v = super().parts(x)
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return q, k, v.cumsum(dim=2) / count


@pytest.mark.sampled
@WAYS
def test_values_in_which_tokens_already_met_make_a_part(is_fused):
    module = drawn(MixedValues(is_fused=is_fused))
    inspection = dsf.inspect(module, tokens(), probe=())
    assert inspection[0].is_part
    assert [missed.name for missed in inspection.unsupported] == ["MixedValues"]
    (layer,) = dsf.inspect(module, tokens())
    torch.testing.assert_close(layer.map(), module.weights(tokens()) @ MEANS, atol=1e-6, rtol=0)


class Swallowed(nn.Module):
    """Tokens are summed into slots, which a recurrent cell alone passes on (slot attention)."""

    def __init__(self):
        super().__init__()
        width = modules.WIDTH
        self.slots = nn.Parameter(torch.zeros(3, width))
        self.k, self.v, self.cell = (
            nn.Linear(width, width),
            nn.Linear(width, width),
            nn.GRUCell(width, width),
        )

    def forward(self, x):
        weights = (self.slots @ self.k(x).mT).softmax(dim=1)
        sums = weights / weights.sum(dim=-1, keepdim=True) @ self.v(x)
        before = self.slots.expand(x.shape[0], -1, -1).flatten(0, 1)
        return self.cell(sums.flatten(0, 1), before).unflatten(0, sums.shape[:2])


def test_what_mixes_before_a_mixer_that_was_read_is_listed():
    inspection = dsf.inspect(drawn(Swallowed()), tokens())
    assert [missed.name for missed in inspection.unsupported] == ["Swallowed"]


class Pieces(modules.Attention):
    """One attention for every piece of the sequence, as for images that are laid in one line."""

    def __init__(self, sizes, *, reads_all=False, further=None, **options):
        super().__init__(**options)
        self.sizes, self.reads_all, self.further = sizes, reads_all, further

    def forward(self, x):
        made = list(self.parts(x))
        q, k, v = (part.split(self.sizes, dim=2) for part in made)
        if self.reads_all:
            k, v = ([part] * len(self.sizes) for part in made[1:])
        mixed = torch.cat([self.mix(*each) for each in zip(q, k, v, strict=True)], dim=2)
        y = self.o(modules.merged(mixed))
        return y if self.further is None else y + self.further(y)

    def weights_of(self, x, piece):
        q, k, _ = (part.double() for part in self.parts(x))
        inside = slice(sum(self.sizes[:piece]), sum(self.sizes[: piece + 1]))
        k = k if self.reads_all else k[:, :, inside]
        return (q[:, :, inside] @ k.mT * q.shape[-1] ** -0.5).softmax(-1)


@pytest.mark.parametrize("sizes", [(2, 4), (1, 1, 2, 1, 1)])
@pytest.mark.parametrize("reads_all", [False, True])
def test_attentions_that_return_tokens_of_their_own_are_no_parts(sizes, reads_all):
    module = drawn(Pieces(sizes, reads_all=reads_all))
    x = tokens(2, sum(sizes), WIDTH)
    inspection = dsf.inspect(module, x)
    assert [layer.is_exact for layer in inspection] == [True] * len(sizes)
    assert not inspection.unsupported
    for piece, layer in enumerate(inspection):
        torch.testing.assert_close(layer.map(), module.weights_of(x, piece), atol=1e-6, rtol=0)


def test_what_else_mixes_their_tokens_is_listed():
    module = drawn(Pieces((2, 4), further=lambda y: y.flip(1)))
    inspection = dsf.inspect(module, tokens(2, 6, WIDTH), probe=())
    assert not any(layer.is_exact for layer in inspection)
    assert {one.name for one in inspection.unsupported} == {"Pieces"}
