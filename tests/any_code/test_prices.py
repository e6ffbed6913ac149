"""What measuring a map takes is known before it is measured, and is at most what may be spent."""

import re

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError, further_mixers
from dsf.inspection.errors import NothingCapturedError, UnreadableError
from dsf.inspection.probing import port_choice, probe
from dsf.inspection.probing.driven import read_off
from dsf.inspection.probing.probe import MANY_OPERATIONS, Budget, share_of_pass
from dsf.inspection.recording import Recording
from tests.any_code import test_loops
from tests.any_code.modules import Attention, drawn, tokens
from tests.any_code.test_loops import STEPS, Gated

SAMPLES, CHANNELS = 2, 8
OVERHEAD = 9
"""Passes that find the form of a map: the original, zeros, four for superposition, three more."""

ALIKE = 6
"""Passes where tokens, too, read all others alike, and there are many: three for each of two."""


class OverTime(nn.Module):
    """A norm over tokens before an attention."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm
        self.attention = Attention(width=CHANNELS, heads=2)

    def forward(self, x):
        is_whole = isinstance(self.norm, nn.LayerNorm)
        return self.attention(self.norm(x) if is_whole else self.norm(x.mT).mT)


NORMS = {
    "one group": lambda _: nn.GroupNorm(1, CHANNELS),
    "two groups": lambda _: nn.GroupNorm(2, CHANNELS),
    "groups of two": lambda _: nn.GroupNorm(4, CHANNELS),
    "all tokens": lambda steps: nn.LayerNorm((steps, CHANNELS)),
}


def normed(name, steps):
    return drawn(OverTime(NORMS[name](steps))), tokens(SAMPLES, steps, CHANNELS)


def of_held(norm, x):
    """The map of a norm, with the deviation held: ``sample output input time read``."""
    steps, x = x.shape[1], x.double()
    groups = getattr(norm, "num_groups", 1)
    size = CHANNELS // groups
    parts = x.unflatten(-1, (groups, size))
    deviation = (parts.var((1, 3), correction=0) + norm.eps).sqrt().repeat_interleave(size, dim=-1)
    weight = norm.weight.detach().double().expand(steps, -1)
    alike = torch.block_diag(*torch.ones(groups, size, size, dtype=torch.float64))
    own = torch.eye(CHANNELS, dtype=torch.float64)
    apart = own[..., None, None] * torch.eye(steps, dtype=torch.float64)
    centred = apart - alike[..., None, None] / (size * steps)
    return centred * (weight.mT[:, None, :, None] / deviation[:, :, None, None, None])


@pytest.mark.parametrize("steps", [CHANNELS, 5])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_whose_channels_read_others_alike_takes_two_passes_a_token(name, steps):
    model, x = normed(name, steps)
    inspection = dsf.inspect(model, x)
    layer = inspection["norm"]
    assert layer.is_exact
    assert inspection.unsupported == ()
    torch.testing.assert_close(layer.map(), of_held(model.norm, x), atol=1e-9, rtol=1e-9)
    passes = int(re.search(r"in (\d+) passes", layer.mixer.label)[1])
    assert passes <= OVERHEAD + 1 + 2 * steps


@pytest.fixture
def replays(monkeypatch):
    """The number of replays so far, in a list of one."""
    count, replay = [0], Recording.replay

    def counted(*args):
        count[0] += 1
        return replay(*args)

    monkeypatch.setattr(Recording, "replay", counted)
    return count


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_over_the_budget_is_listed_before_it_is_measured(name, monkeypatch, replays):
    steps = 64
    monkeypatch.setattr(further_mixers, "EACH", ALIKE - 1)
    model, x = normed(name, steps)
    inspection = dsf.inspect(model, x)
    (listed,) = inspection.unsupported
    assert listed.name == "norm"
    assert f"{ALIKE} forward passes" in listed.reason
    assert replays[0] < 2 * steps


def mixing(kind):
    """A map between channels that answer alike to equal values, though they mix."""
    if kind == "alike":
        return torch.ones(CHANNELS, CHANNELS)
    shift = torch.eye(CHANNELS).roll(1, dims=0)
    return shift if kind == "shifted" else shift + 2 * shift @ shift


PASSES = {"alike": 2, "shifted": CHANNELS, "blended": CHANNELS}


@pytest.mark.parametrize("kind", PASSES)
def test_channels_that_answer_alike_but_mix_have_their_price(kind):
    steps, calls, asked = 5, [], []
    weights = mixing(kind).double()
    over_time = torch.rand(steps, steps, dtype=torch.float64)

    def function(x):
        calls.append(x)
        return torch.einsum("oi,tr,sri->sto", weights, over_time, x)

    values = torch.randn(SAMPLES, steps, CHANNELS, dtype=torch.float64)
    found = read_off(function, values, allow=lambda *price: asked.append(price))
    expected = torch.einsum("oi,tr->oitr", weights, over_time).expand(SAMPLES, -1, -1, -1, -1)
    torch.testing.assert_close(found.weights, expected)
    assert asked[-1] == (PASSES[kind] * steps, found.weights.numel())
    assert len(calls) <= OVERHEAD + sum(passes for passes, _ in asked)
    calls.clear()

    def refuse(*_):
        raise UnreadableError("too much")

    with pytest.raises(UnreadableError):
        read_off(function, values, allow=refuse)
    assert len(calls) <= OVERHEAD


def test_a_pass_of_many_operations_counts_as_several():
    budget = Budget(each=100)
    budget.check(share_of_pass(MANY_OPERATIONS), 100, 1)
    with pytest.raises(UnreadableError, match="101"):
        budget.check(share_of_pass(MANY_OPERATIONS), 101, 1)
    with pytest.raises(UnreadableError, match="count as 102"):
        budget.check(share_of_pass(2 * MANY_OPERATIONS), 51, 1)


WIDE = {
    "convolution": nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1),
    "transposed convolution": nn.ConvTranspose1d(CHANNELS, CHANNELS, 3, padding=1),
    "all at once": nn.Sequential(
        nn.Flatten(), nn.Linear(CHANNELS * STEPS, CHANNELS * STEPS), nn.Unflatten(1, (CHANNELS, -1))
    ),
}


@pytest.mark.parametrize("kind", WIDE)
def test_a_pass_over_wide_weights_counts_as_several(kind, monkeypatch):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.inner = nn.LayerNorm(CHANNELS), WIDE[kind]

        def forward(self, x):
            return self.inner(self.norm(x).mT).mT

    model, x = drawn(Wide()), tokens(1, STEPS, CHANNELS)
    assert len(dsf.inspect(model, x)) == 1
    monkeypatch.setattr(probe, "MANY_NUMBERS", CHANNELS)
    with pytest.raises(NothingCapturedError, match=r"which count as .* or the numbers they read"):
        dsf.inspect(model, x)


class Loop(nn.Module):
    """A loop that is linear in none of its values."""

    def __init__(self):
        super().__init__()
        self.enter, self.recall = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        state, found = torch.zeros_like(x[:, 0]), []
        for each in x.unbind(1):
            state = (self.enter(each) + self.recall(state) + state.square().sum()).cos()
            found.append(state)
        return torch.stack(found, dim=1)


def test_a_search_in_a_long_program_takes_few_replays(monkeypatch, replays):
    monkeypatch.setattr(port_choice, "SEARCH_OPERATIONS", 20)
    model, x = drawn(Loop()).double(), tokens(SAMPLES, 3, CHANNELS).double()
    with pytest.raises(InspectionError):
        dsf.inspect(model, x)
    assert replays[0] < 100  # of more than 300


def test_a_loop_over_the_budget_is_listed_with_its_price(monkeypatch):
    monkeypatch.setattr(further_mixers, "EACH", STEPS - 1)
    x = tokens(SAMPLES, STEPS, test_loops.CHANNELS).double()
    with pytest.raises(NothingCapturedError, match=f"would take {STEPS} forward passes"):
        dsf.inspect(drawn(Gated().double()), x)


def test_maps_of_all_modules_together_are_limited_and_said_so():
    budget = Budget(each=9, together=9, numbers=10, stored=35)
    budget.check(1.0, 1, 5)
    with pytest.raises(UnreadableError, match=r"of the 40 .* all modules together 35 are held"):
        budget.check(1.0, 1, 6)
    with pytest.raises(UnreadableError, match="hold 11 numbers, more than the 10"):
        budget.check(1.0, 1, 11)


class Highest(nn.Module):
    """The highest values so far, of few channels their sums, summed over channels."""

    def __init__(self, *, width=CHANNELS, weight=0.999, is_turned=False):
        super().__init__()
        self.width, self.weight, self.is_turned = width, weight, is_turned
        self.inner = nn.Linear(CHANNELS, width)

    def forward(self, x):
        value = self.inner(x)
        value = value.mT if self.is_turned else value
        sums, few = value.cumsum(1), CHANNELS // 2
        highest = sums.lerp(value.cummax(1)[0], self.weight)
        found = torch.cat([0.01 * sums[..., :few], highest[..., few:]], dim=-1).cumsum(2)
        return (found.mT if self.is_turned else found).repeat(1, 1, CHANNELS // self.width)


@pytest.fixture
def searches(monkeypatch):
    """The number of searches for values so far, in a list of one."""
    count, best = [0], port_choice.PortSearch.best

    def counted(*args, **options):
        count[0] += 1
        return best(*args, **options)

    monkeypatch.setattr(port_choice.PortSearch, "best", counted)
    return count


@pytest.mark.parametrize(
    "other", [{"weight": 0}, {"width": CHANNELS // 2}, {"is_turned": True}], ids=str
)
def test_modules_that_cannot_be_read_stop_no_other_of_their_class(other):
    model = drawn(nn.Sequential(Highest(), Highest(), Highest(**other)))
    inspection = dsf.inspect(model, tokens(SAMPLES, CHANNELS, CHANNELS))
    assert [layer.name for layer in inspection] == ["2"]
    assert inspection["2"].is_exact
    assert {one.name for one in inspection.unsupported} == {"0", "1"}


class Squared(nn.Module):
    def forward(self, x):
        return (x + x.cummax(1)[0].square()).cummin(1)[0]


def test_modules_that_do_the_same_are_searched_twice(searches):
    model = drawn(
        nn.Sequential(*(nn.Sequential(Squared(), nn.LayerNorm(CHANNELS)) for _ in range(40)))
    )
    with pytest.raises(NothingCapturedError, match=r"what '0\.0' and '1\.0' do with other numbers"):
        dsf.inspect(model, tokens(SAMPLES, CHANNELS, CHANNELS))
    assert searches == [2]
