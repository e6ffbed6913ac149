"""How ``stack`` records a run: what it follows and frees, and that a wrong step is an error."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

import dsf
from dsf.attribution.affine_steps import Follower, replayed
from dsf.inspection.errors import ReconstructionError, UnreadableError
from dsf.models import folder, recall
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


def prompt(samples=2):
    return recall.draw(torch.Generator().manual_seed(0), samples, pairs=4, length=16).tokens


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


class InPlace(Block):
    """Overwrites the numbers that an activation, a gate or a sum is given."""

    def __init__(self, written):
        super().__init__()
        self.written, self.gate = written, nn.Linear(8, 8)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return x + self.written(self.inner(x), self.gate(x))


WRITTEN = {
    "silu": lambda y, _: functional.silu(y, inplace=True),
    "hardswish": lambda y, _: nn.Hardswish(inplace=True)(y),
    "tanh_": lambda y, _: y.tanh_(),
    "square": lambda y, _: y.mul_(y),
    "gated": lambda y, gate: functional.silu(gate).mul_(y),
    "summed": lambda y, gate: torch.full_like(y, 0.5).add_(y).sub_(gate.relu_()),
    "turned": lambda y, gate: y + gate.neg_() - gate,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_operations_that_overwrite_what_they_are_given_are_followed(name, x):
    torch.manual_seed(0)
    stack = dsf.stack(nn.Sequential(*(InPlace(WRITTEN[name]) for _ in range(2))).double(), x)
    parts = stack.contributions().sum(dim=2) + stack.remainder()
    torch.testing.assert_close(parts, stack.hidden[-1])


def test_views_of_what_was_overwritten_are_not_taken_for_what_they_were(x):
    def written(y, _):
        view = y.view(-1, 8)
        functional.silu(y, inplace=True)
        return view.view_as(y)

    torch.manual_seed(0)
    model = nn.Sequential(*(InPlace(written) for _ in range(2))).double()
    with pytest.raises(UnreadableError, match="because of 'silu'"):
        dsf.stack(model, x)


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
def test_models_that_write_into_streams_or_weights_are_followed(kind, x):
    torch.manual_seed(0)
    stack = dsf.stack(kind().double(), x)
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
    step = follower.find(direct)
    assert follower.find(product).linear is not None
    again = replayed({step.sources[0]: 2 * x.unsqueeze(0)}, [step])[step]
    torch.testing.assert_close(again[0], direct)


def small(x):
    torch.manual_seed(0)
    return dsf.stack(nn.Sequential(Block(), Block()).double(), x)


def test_a_step_that_is_wrong_is_an_error_wherever_numbers_are_asked_for(x):
    vector = torch.ones(8, dtype=torch.float64)
    stack = small(x)
    linear = stack.mixers[0].step.linear
    stack.mixers[0].step.linear = lambda x: 1.001 * linear(x)
    for asked in (stack.contributions, stack.remainder, stack.rollout):
        with pytest.raises(ReconstructionError, match="would be wrong"):
            asked()
    with pytest.raises(ReconstructionError, match="miss the value"):
        stack.attribute(vector, stream=-1)


def test_a_share_of_a_layer_that_is_wrong_is_an_error():
    stack = dsf.stack(folder("llama"), input_ids=prompt())
    step = stack.mixers[0].step
    linear = step.linear
    step.linear = lambda x: 1.001 * linear(x)  # what tokens contribute, and not the adjoint
    step.linear.adjoint = linear.adjoint
    with pytest.raises(ReconstructionError, match="miss the value"):
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
