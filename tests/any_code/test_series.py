"""Series of several variables, ``sample time variable``: which of two axes holds the tokens.

By custom features lie last. Weights or norms that take another axis for that of features first, and
then the last one, too, leave it open, however often they do; single numbers that get features, and
what a window slides along alone, are tokens.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

from dsf.inspection.errors import InspectionError
from tests.any_code.test_promise import answered, drawn, inspected

STEPS, VARIABLES, FEATURES = 12, 8, 16
X = drawn(2, STEPS, VARIABLES)


class OverTime(nn.Module):
    def __init__(self, to=STEPS):
        super().__init__()
        self.linear = nn.Linear(STEPS, to)

    def forward(self, x):
        made = torch.tanh(self.linear(x.mT)).mT
        return x + made if made.shape == x.shape else made


class NormOverTime(nn.Module):
    def forward(self, x):
        return functional.layer_norm(x.mT, (STEPS,)).mT


class GroupNorm(nn.Module):
    def forward(self, x):
        return functional.group_norm(x, 1)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        return self.mix(x, x, x, need_weights=False)[0]


def over_variables(width=VARIABLES):
    return nn.Linear(width, width)


@pytest.mark.parametrize("variables", [VARIABLES, STEPS], ids=["fewer", "as many"])
@pytest.mark.parametrize("mixers", [1, 4])
def test_features_lie_last_however_often_weights_sum_over_tokens(mixers, variables):
    embedding = nn.Linear(variables, FEATURES)
    model = nn.Sequential(embedding, *(OverTime() for _ in range(mixers)))
    inspection = inspected(model, drawn(2, STEPS, variables))
    assert answered(inspection) == {f"{k + 1}.linear" for k in range(mixers)}
    assert all(layer.system.steps == STEPS for layer in inspection)


AT_ODDS = {
    "time first": lambda: [OverTime(), over_variables()],
    "time more often": lambda: [OverTime(), over_variables(), OverTime()],
    "time less often": lambda: [OverTime(), over_variables(), over_variables()],
    "another length": lambda: [OverTime(5), over_variables()],
    "norm over time": lambda: [NormOverTime(), over_variables(), Attention(VARIABLES)],
    "group norm": lambda: [GroupNorm(), over_variables(), Attention(VARIABLES)],
}


@pytest.mark.parametrize("way", AT_ODDS)
def test_weights_and_norms_that_disagree_are_a_question(way):
    with pytest.raises(InspectionError, match="Pass tokens=1 or tokens=2"):
        inspected(nn.Sequential(*AT_ODDS[way]()), X)


@pytest.mark.parametrize(("axis", "mixing"), [(1, {"0.linear", "2.linear"}), (2, {"1", "3"})])
def test_the_answer_decides_what_mixes(axis, mixing):
    model = nn.Sequential(OverTime(), over_variables(), OverTime(), over_variables())
    inspection = inspected(model, X, tokens=axis)
    assert answered(inspection) == mixing
    assert {layer.system.steps for layer in inspection} == {X.shape[axis]}


NORMS = {
    "before": lambda: [nn.LayerNorm(VARIABLES), OverTime()],
    "behind": lambda: [OverTime(), nn.LayerNorm(VARIABLES)],
    "of another axis": lambda: [over_variables(), NormOverTime(), OverTime()],
}


@pytest.mark.parametrize("way", NORMS)
def test_norms_of_the_last_axis_or_weights_over_it_say_that_it_holds_features(way):
    parts = NORMS[way]()
    mixing = {str(k) for k, one in enumerate(parts) if isinstance(one, NormOverTime)}
    mixing |= {f"{k}.linear" for k, one in enumerate(parts) if isinstance(one, OverTime)}
    assert answered(inspected(nn.Sequential(*parts), X)) == mixing


def test_a_norm_over_time_and_variables_says_nothing():
    model = nn.Sequential(nn.LayerNorm((STEPS, VARIABLES)), over_variables(), Attention(VARIABLES))
    assert answered(inspected(model, X)) == {"0", "2.mix"}


class Embedded(nn.Module):
    """Single numbers get features in some way, and weights sum over those of all times."""

    def __init__(self, way):
        super().__init__()
        self.way, self.weights = way, nn.Parameter(torch.ones(1, FEATURES))
        self.linear, self.state = nn.Linear(1, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.head = nn.Linear(STEPS * FEATURES, 5)

    def forward(self, x):
        return self.head(torch.tanh(WAYS[self.way](self, x)).transpose(1, 2).flatten(2))


def _scanned(model, x):
    state, found = torch.zeros(()), []
    for numbers in x.unbind(1):
        state = torch.tanh(model.state(state) if found else state) + model.linear(
            numbers[..., None]
        )
        found.append(state)
    return torch.stack(found, dim=1)


WAYS = {
    "product": lambda model, x: x[..., None] * model.weights,
    "sum": lambda model, x: x[..., None] + model.weights,
    "distance": lambda model, x: (-((x[..., None] - model.weights) ** 2)).exp(),
    "linear": lambda model, x: model.linear(x[..., None]),
    "loop": _scanned,
}


@pytest.mark.parametrize("way", WAYS)
def test_single_numbers_that_get_features_are_tokens(way):
    assert "head" in answered(inspected(Embedded(way), X))


def test_a_variable_with_weights_of_its_own_is_a_feature():
    class Each(nn.Module):
        """Every variable has an embedding, and these are summed."""

        def __init__(self):
            super().__init__()
            self.each = nn.ModuleList(nn.Linear(1, FEATURES) for _ in range(VARIABLES))
            self.attention = Attention(FEATURES)

        def forward(self, x):
            parts = [one(x[..., k : k + 1]) for k, one in enumerate(self.each)]
            return self.attention(torch.stack(parts).sum(0))

    assert answered(inspected(Each(), X)) == {"attention.mix"}


def test_what_a_window_slides_along_alone_are_tokens():
    class Windows(nn.Module):
        """Every variable by itself: a convolution along time, then weights over all times."""

        def __init__(self):
            super().__init__()
            self.slide = nn.Conv1d(1, 4, 3, padding=1)
            self.gather, self.head = nn.Conv1d(4, 1, 1), nn.Linear(STEPS, 5)

        def forward(self, x):
            lines = self.gather(torch.tanh(self.slide(x.mT.flatten(0, 1)[:, None])))
            return self.head(lines[:, 0]).unflatten(0, (len(x), -1)).mT

    assert {"slide", "head"} <= answered(inspected(Windows(), X))


def test_a_spectrogram_keeps_its_frequencies_as_features():
    class Sound(nn.Module):
        """A convolution over times and frequencies, then weights over the latter (conformers)."""

        def __init__(self):
            super().__init__()
            self.slide, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * VARIABLES, 16)
            self.attention = Attention(16)

        def forward(self, x):
            return self.attention(self.head(self.slide(x[:, None]).transpose(1, 2).flatten(2)))

    found = answered(inspected(Sound(), X))
    assert {"slide", "attention.mix"} <= found
    assert "head" not in found
