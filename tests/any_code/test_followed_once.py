"""What a run does to tokens is followed once for layers that are equal, with the same result."""

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

import dsf
from dsf.inspection import examine
from dsf.inspection.capture.modes import Heard
from dsf.inspection.causal import coordinates as remembered
from dsf.inspection.causal import replay, rules, tracker
from dsf.inspection.causal.coordinates import numbered
from tests.any_code import modules
from tests.any_code.modules import WIDTH, drawn, tokens


class Varied(modules.Attention):
    """The same operations on the same tokens: other parts of them, and along other axes."""

    def forward(self, x):
        mixed = super().forward(x)
        for axis in (1, 2):
            mixed = mixed + x.roll(1, dims=axis) + x.mean(dim=axis, keepdim=True)
        return torch.cat([mixed[:, 3:6], mixed[:, :3], mixed[:, 6:]], dim=1)


KINDS = (
    Varied,
    *(modules.Attention, modules.WithConvolution, modules.WithRunningMean, modules.WithShift),
    *(modules.WithFourier, modules.WithChannelMeans, modules.Difference, modules.Slots),
    *(modules.ChannelAttention, modules.HeadsBeforeSamples, modules.HeadsBehindSamples),
    *(modules.HeadsLast, modules.InnerHeadsLast, modules.Windows, modules.WindowsAsSamples),
    *(modules.PooledKeys, modules.LooksBack, modules.Flipped, modules.Permuted),
    *(modules.TokenPerceptron, modules.Scan, modules.LinearHeads, modules.LongConvolution),
)


class Layers(nn.Module):
    """Equal layers, one after the other, each added to what it is given."""

    def __init__(self, kind, depth=3):
        super().__init__()
        self.layers = nn.ModuleList([kind() for _ in range(depth)])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(layer_norm(x, (WIDTH,)) / 2)
        return x


def followed(model, x, monkeypatch):
    """All that is known after a run: what met where, and of which tokens tensors were made."""
    seen = []
    with monkeypatch.context() as patch:
        judged = examine.judged

        def noted(tracker, *given):
            seen.append(tracker)
            return judged(tracker, *given)

        patch.setattr(examine, "judged", noted)
        try:
            dsf.inspect(model, x, probe=())
        except dsf.inspection.NothingCapturedError:
            assert seen
    (tracker,) = seen
    name = tracker.where.name_of
    met = [(name(one.module), one.operation, one.time, worded(one)) for one in tracker.mixings]
    made = [
        [described(part) for part in (*one.given, *one.made)] for one in tracker.where.invocations
    ]
    sums = [
        [[each.number for each in axes] for axes in (axis.source.summed, axis.source.normed)]
        for one in tracker.run.given
        for axis in one.planes
    ]
    return met, made, sums, tracker.projections.disputed()


def worded(mixing):
    meeting = mixing.meeting
    return of_axis(meeting.axis), meeting.how, meeting.is_known, meeting.chooses


def of_axis(axis):
    source = axis.source
    return source.name, source.kind, axis.number, axis.size, source.channels is axis


def described(coordinates):
    if coordinates is None:
        return None
    several = (coordinates.planes, coordinates.columns)
    return [[(of_axis(axis), plane.tolist()) for axis, plane in one.items()] for one in several]


@pytest.mark.sampled(count=6)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_changes_nothing(kind, monkeypatch):
    model, x = drawn(Layers(kind)), tokens()
    found = followed(model, x, monkeypatch)
    monkeypatch.setattr(remembered.Remembered, "of", lambda *_: None)
    monkeypatch.setattr(rules.Coordinates, "equals", lambda *_: False)
    assert found == followed(model, x, monkeypatch)


def test_a_deeper_model_needs_no_further_rules(monkeypatch):
    counts = []
    by_rule = rules.Rules._by_rule

    def counted(self, done):
        counts[-1] += all(map(rules.are_numbers, (*done.given, *done.outs)))
        return by_rule(self, done)

    monkeypatch.setattr(rules.Rules, "_by_rule", counted)
    for depth in (3, 9):
        counts.append(0)
        dsf.inspect(drawn(Layers(modules.Attention, depth)), tokens())
    assert counts[0] == counts[1] > 0


class Scaled(Layers):
    """Layers that are scaled by a number of which nobody knows where it came from."""

    def __init__(self, kind, depth):
        super().__init__(kind, depth)
        self.scale = [torch.ones(())]

    def forward(self, x):
        return super().forward(x) * self.scale[0]


@pytest.mark.parametrize(("made", "runs"), [(Layers, 0), (Scaled, 2)])
def test_a_model_runs_again_only_where_its_run_could_not_be_followed(made, runs, monkeypatch):
    passes, repeated = [], replay.repetition

    def counted(invocation, *given, **named):
        passes.append(invocation.module)
        return repeated(invocation, *given, **named)

    monkeypatch.setattr(replay, "repetition", counted)
    for depth in (3, 9):
        passes.clear()
        inspection = dsf.inspect(drawn(made(modules.Attention, depth)), tokens())
        assert [type(one) for one in passes] == [made] * runs
        assert all(layer.is_exact for layer in inspection)
        assert not inspection.unsupported


class Talking(modules.Attention):
    """Weights that are mixed over heads behind the softmax, so that no softmax made them."""

    def mix(self, q, k, v):
        weights = (q @ k.mT).softmax(dim=-1)
        return torch.einsum("shij,hg->sgij", weights, torch.eye(weights.shape[1]).cos()) @ v


def test_what_is_asked_of_a_run_is_no_part_of_it(monkeypatch):
    heard, asked, are_weights = [], [], tracker.Tracker.are_weights

    def listened(*given):
        with Heard(lambda func, *_: heard.append(func)):
            asked.append(are_weights(*given))
        return asked[-1]

    monkeypatch.setattr(tracker.Tracker, "are_weights", listened)
    inspection = dsf.inspect(drawn(Layers(Talking, 2)), tokens())
    assert len(inspection) == 2
    assert all(layer.is_exact for layer in inspection)
    assert asked
    assert not heard


def test_memory_is_limited(monkeypatch):
    monkeypatch.setattr(remembered, "MAX_BYTES", 100)
    known = remembered.Remembered()
    for number, size in enumerate((10, 20, 30)):
        made = numbered(torch.zeros(size, 3), "x")
        known.add(number, made, [made, None, made])
    assert [known.of(number) is not None for number in range(3)] == [False, False, True]
