"""``stack`` records the run of its inspection; where it cannot, a run of its own gives the same."""

import gc
import weakref

import pytest
import torch
from torch import nn

import dsf
from dsf.attribution import entry
from dsf.attribution.affine_steps import contributed
from dsf.attribution.stream_follower import Follower, step_of
from dsf.inspection.errors import ReconstructionError
from dsf.models import folder, recall
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


def prompt(samples=2):
    return recall.draw(torch.Generator().manual_seed(0), samples, pairs=4, length=16).tokens


@pytest.fixture
def runs(monkeypatch):
    """How often a run of its own was needed."""
    found = []
    recorded = entry._recorded

    def counted(*args):
        found.append(args)
        return recorded(*args)

    monkeypatch.setattr(entry, "_recorded", counted)
    return found


def assert_same(one, other):
    vector = torch.linspace(-1, 1, one.hidden[-1].shape[-1], dtype=torch.float64)
    for target, named in (((5, 7), {}), ((vector,), {"stream": -1})):
        ours, theirs = one.attribute(*target, **named), other.attribute(*target, **named)
        assert list(ours.layers) == list(theirs.layers)
        assert list(ours.total) == list(theirs.total)
        for name in ("value", "tokens", "embedding", "remainder"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
        for name, share in ours.total.items():
            torch.testing.assert_close(share, theirs.total[name])
            torch.testing.assert_close(ours.layers.get(name), theirs.layers.get(name))


@pytest.mark.parametrize("name", ["llama", "mamba", "mamba2", "gpt2", "bamba"])
def test_one_run_is_enough_and_gives_what_a_second_one_does(name, runs, monkeypatch):
    if name in ("llama", "mamba", "mamba2"):
        model, given = folder(name), {"input_ids": prompt()}
    elif name == "bamba":
        model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
    else:
        model, given = softmax_models.build(name), softmax_models.inputs(name)
    once = dsf.stack(model, **given)
    assert not runs
    monkeypatch.setattr(entry, "likely_blocks", lambda *_: [])
    twice = dsf.stack(model, **given)
    assert len(runs) == 1
    assert_same(once, twice)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.inner = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return x + self.inner(x).relu()


class Bigger(nn.Module):
    """The list of blocks is not the largest list of modules."""

    def __init__(self):
        super().__init__()
        self.before = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))
        self.blocks = nn.ModuleList([Block() for _ in range(2)])

    def forward(self, x):
        x = self.before(x)
        for block in self.blocks:
            x = block(x)
        return x


class Rescaling(Bigger):
    """Writes into its weights while it runs."""

    def forward(self, x):
        with torch.no_grad():
            self.blocks[0].inner.weight.mul_(0.5)
        return super().forward(x)


class Adding(Block):
    """Writes what it adds into the stream that it was given."""

    def forward(self, x):
        x += self.attention(x, x, x)[0]
        x += self.inner(x).relu()
        return x


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Adding() for _ in range(2)])

    def forward(self, x):
        x = x.clone()
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def x():
    return torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_stack_is_freed_without_the_collector_of_circles(x):
    gc.collect()
    gc.disable()
    try:
        stack = small(x)
        stack.attribute(torch.ones(8, dtype=torch.float64), stream=-1)
        held = weakref.ref(stack.mixers[0].step)
        del stack
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", [Bigger, Rescaling, Overwriting])
def test_where_the_run_is_not_what_was_foretold_there_is_a_second_one(kind, runs, x):
    torch.manual_seed(0)
    stack = dsf.stack(kind().double(), x)
    assert len(runs) == 1
    parts = stack.contributions().sum(dim=2) + stack.remainder()
    torch.testing.assert_close(parts, stack.hidden[-1])


def test_a_run_that_is_followed_frees_what_the_model_frees(x):
    with Follower() as follower:
        follower.add(x)
        gate = x * 2
        factor = nn.functional.silu(gate)
        product = factor * (x * 3)
        held = weakref.ref(gate)
        del gate, factor
        assert held() is None
        direct = nn.functional.silu(x * 2)
    step = step_of(follower.find(direct), direct)
    assert follower.find(product).linear is not None
    torch.testing.assert_close(contributed(step.sources[0], step, 2 * x.unsqueeze(0))[0], direct)


def small(x):
    torch.manual_seed(0)
    return dsf.stack(nn.Sequential(Block(), Block()).double(), x)


def test_a_step_that_is_wrong_is_an_error_wherever_numbers_are_asked_for(x):
    vector = torch.ones(8, dtype=torch.float64)
    stack = small(x)
    linear = stack.mixers[0].step.linear
    stack.mixers[0].step.linear = lambda x: 1.001 * linear(x)
    for asked in (stack.contributions, stack.remainder, stack.rollout, stack.chained_rollout):
        with pytest.raises(ReconstructionError, match="would be wrong"):
            asked()
    with pytest.raises(ReconstructionError, match=r"miss the value by \d"):
        stack.attribute(vector, stream=-1)


def test_a_share_of_a_layer_that_is_wrong_is_an_error():
    stack = dsf.stack(folder("llama"), input_ids=prompt())
    stack.results[stack.mixers[0].step].mul_(1.001)
    with pytest.raises(ReconstructionError, match=r"or of the layers, .* miss the value by"):
        stack.attribute(7)


@pytest.mark.parametrize("name", ["llama", "mamba2", "rwkv", "bamba"])
def test_the_adjoint_of_a_whole_layer_is_its_transpose(name):
    """Oracle: the derivative that torch takes of the linear part."""
    if name in ("llama", "mamba2"):
        layers = dsf.inspect(folder(name), input_ids=prompt(), exact=True)
    else:
        model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
        layers = dsf.inspect(model, exact=True, **given)
    whole = layers[0].whole
    given = torch.zeros_like(whole.given, requires_grad=True)
    put_out = whole.linear(given)
    cotangent = torch.randn(put_out.shape, generator=torch.Generator().manual_seed(0)).double()
    (expected,) = torch.autograd.grad(put_out, given, cotangent)
    torch.testing.assert_close(whole.adjoint(cotangent), expected)
    assert expected.abs().max() > 0
