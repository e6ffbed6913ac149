"""What is linear in its values where its factors are held, such as a norm over tokens."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError
from dsf.inspection.probing.driven import PAIRED, read_off
from dsf.inspection.probing.factors import factors_of
from dsf.inspection.recording import recorded
from tests.any_code.modules import drawn

SIZE, WIDTH = 6, 4


class Of(nn.Module):
    """A function of tokens ``sample time channel`` before a linear layer."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)
        self.leave = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.leave(self.inner(x))

    def inner(self, x):
        return self.function(x, *self.parts)


def by_hand(x):
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 0.1).sqrt()


def response_norm(x):
    size = x.norm(dim=1, keepdim=True)
    return x * (size / size.mean(-1, keepdim=True)) + x


def clamped(x):
    return x / x.norm(dim=1, keepdim=True).clamp(min=0.5)


def twice(x):
    size = x.std(1, keepdim=True)
    return x / size * (1 + size).rsqrt()


def squeezed(x, part):
    return x * part(x.std(1, keepdim=True)).sigmoid()


def fused(x, part):
    return part(x.mT).mT


def means():
    return torch.full((SIZE, SIZE), 1 / SIZE, dtype=torch.float64)


def norm_of(x, eps):
    """The map of a norm over tokens, ``sample channel time read``."""
    deviation = (x.var(1, correction=0) + eps).sqrt()
    return (torch.eye(SIZE, dtype=torch.float64) - means()) / deviation[..., None, None]


def times(factor):
    """The map that multiplies every token, ``sample time channel``."""
    return torch.diag_embed(factor.expand(-1, SIZE, -1).mT)


def of_response_norm(x):
    size = x.square().sum(1, keepdim=True).sqrt()
    return times(1 + size / size.mean(-1, keepdim=True))


def of_twice(x):
    size = x.std(1, keepdim=True)
    return times(1 / (size * (1 + size).sqrt()))


def of_squeezed(x, part):
    return times((x.std(1, keepdim=True) @ part.weight.mT.double() + part.bias).sigmoid())


FORMULAS = {
    "norm by hand": (by_hand, (), lambda x: norm_of(x, 0.1)),
    "fused norm": (fused, (nn.InstanceNorm1d(WIDTH),), lambda x, _: norm_of(x, 1e-5)),
    "response norm": (response_norm, (), of_response_norm),
    "clamped size": (clamped, (), lambda x: times(1 / x.norm(dim=1, keepdim=True).clamp(min=0.5))),
    "size used twice": (twice, (), of_twice),
    "gate of deviations": (squeezed, (nn.Linear(WIDTH, WIDTH),), of_squeezed),
}


def drawn_with(function, parts):
    return drawn(Of(function, *parts)), 2 * torch.randn(2, SIZE, WIDTH) + 1


@pytest.mark.parametrize("name", FORMULAS)
@torch.no_grad()
def test_the_map_is_that_of_the_formula_with_factors_held(name):
    function, parts, formula = FORMULAS[name]
    model, x = drawn_with(function, parts)
    (layer,) = inspection = dsf.inspect(model, x)
    assert layer.is_exact
    assert inspection.unsupported == ()
    torch.testing.assert_close(layer.map(), formula(x.double(), *parts), atol=1e-6, rtol=1e-6)
    assert "held" in layer.mixer.label


@pytest.mark.parametrize("chosen", [range(3, SIZE), range(3)])
@torch.no_grad()
def test_a_token_that_moves_nothing_says_nothing_of_a_gate_of_the_largest(chosen):
    model, x = drawn_with(lambda x: x * x.amax((1, 2), keepdim=True), ())
    x[:, chosen] += 10  # whichever is asked first, in one of both cases it is none of the largest
    (layer,) = inspection = dsf.inspect(model, x)
    assert layer.is_exact
    assert not inspection.unsupported
    gate = x.amax((1, 2), keepdim=True).expand(-1, 1, WIDTH).double()
    torch.testing.assert_close(layer.map(), times(gate)[:, :1], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_norm_of_groups_of_channels_mixes_these():
    norm = nn.GroupNorm(2, WIDTH)
    model, x = drawn_with(fused, (norm,))
    (layer,) = dsf.inspect(model, x)
    assert layer.is_exact
    groups = x.double().unflatten(-1, (2, -1))
    deviation = (groups.var((1, 3), correction=0) + norm.eps).sqrt()
    expected = torch.eye(SIZE * WIDTH // 2, dtype=torch.float64) - 2 / (SIZE * WIDTH)
    for group in range(2):
        inside = slice(2 * group, 2 * group + 2)
        found = layer.map()[:, inside, inside].permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
        scale = (
            norm.weight[inside].repeat_interleave(SIZE)[:, None] / deviation[:, group, None, None]
        )
        torch.testing.assert_close(found, scale * expected, atol=1e-6, rtol=1e-6)
    assert not layer.map()[:, :2, 2:].any()


def adds_its_size(x):
    size = x.std(1, keepdim=True)
    return x / size + size


def adds_its_products(x):
    size = x.std(1, keepdim=True)
    return x / size + 1 / size


def only_its_size(x):
    return 0 * x + x.std(1, keepdim=True)


def the_largest(x):
    return x + x.amax(1, keepdim=True)


def inverse(x):
    return x.std(1, keepdim=True) / (x + 9)


@pytest.mark.parametrize(
    "function", [adds_its_size, adds_its_products, only_its_size, the_largest, inverse]
)
@torch.no_grad()
def test_what_factors_do_besides_is_listed(function):
    model, x = drawn_with(function, ())
    try:
        inspection = dsf.inspect(model, x)
    except InspectionError:
        return
    assert not any(layer.is_exact for layer in inspection)
    assert inspection.unsupported


class Returning(nn.Module):
    """A norm that returns its deviation, too."""

    def forward(self, x):
        size = x.std(1, keepdim=True)
        return x / size, size.expand(x.shape)


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Returning()
        self.leave = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        normed, size = self.norm(x)
        return self.leave(normed + size)


@torch.no_grad()
def test_a_deviation_that_is_returned_is_listed():
    model, x = drawn(Adding()), torch.randn(2, SIZE, WIDTH)
    assert dsf.inspect(model, x).unsupported


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_that_mix_are_read_off_with_other_rows(groups):
    size = WIDTH // groups
    own = torch.block_diag(*torch.ones(groups, size, size, dtype=torch.float64))
    weights = torch.randn(2, WIDTH, WIDTH, 3, SIZE, dtype=torch.float64) * own[..., None, None]
    values = torch.randn(2, SIZE, WIDTH, dtype=torch.float64)
    found = read_off(lambda x: torch.einsum("soitr,sri->sto", weights, x), values)
    torch.testing.assert_close(found.weights, weights)


class WithDeviation(nn.Module):
    def __init__(self, effect):
        super().__init__()
        self.effect = effect

    def forward(self, x):
        return self.effect(x, x.std(dim=1, keepdim=True))


@pytest.mark.parametrize(("effect", "is_factor"), [(torch.div, True), (torch.add, False)])
def test_only_what_multiplies_is_a_factor(effect, is_factor):
    x = torch.randn(2, SIZE, WIDTH, dtype=torch.float64)
    recording = recorded(WithDeviation(effect), (x,), {})
    step = torch.randn_like(x)
    changed = x + step, x - PAIRED * step
    wanted = [recording.first_output]
    assert bool(factors_of(recording, recording.given[0], changed, wanted, 1e-12)) == is_factor
