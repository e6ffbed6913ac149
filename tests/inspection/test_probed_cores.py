"""Modules that are given queries, keys and values, and no projection says what their axes are."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.errors import NothingCapturedError

SIZES = {"b": 2, "h": 3, "t": 5, "d": 4, "e": 6}
COINCIDING = dict.fromkeys(SIZES, 4)


class Core(nn.Module):
    """A mixer of q, k ``(batch, head, time, width)`` and v, whatever order its inputs have."""

    def __init__(self, order):
        super().__init__()
        self.order = order

    def forward(self, q, k, v):
        plain = "bhtd" if "h" in self.order else "btd"
        q, k, v = (torch.einsum(f"{self.order}->{plain}", part) for part in (q, k, v))
        return torch.einsum(f"{plain}->{self.order}", self.mixed(q, k, v))


class Softmax(Core):
    def mixed(self, q, k, v):
        return (q @ k.mT / 2).softmax(-1) @ v


class Linear(Core):
    def mixed(self, q, k, v):
        return (q @ k.mT).tril() @ v


class Decaying(Core):
    def mixed(self, q, k, v):
        state, out = q.new_zeros(*q.shape[:-2], q.shape[-1], v.shape[-1]), []
        for t in range(q.shape[-2]):
            state = 0.9 * state + k[..., t, :, None] * v[..., t, None, :]
            out.append((q[..., t, None, :] @ state)[..., 0, :])
        return torch.stack(out, -2)


def slopes(module, inputs, order):
    """How the response moves with the values, channel by channel: ``batch head time read``."""
    wide = [each.double() for each in inputs]
    found = torch.autograd.functional.jacobian(lambda v: module(*wide[:-1], v), wide[-1])
    out, seen = order.replace("d", "e"), order.upper().replace("D", "E")
    target = "bBhHtTeE" if "h" in order else "bBtTeE"
    slope = torch.einsum(f"{out}{seen}->{target}", found)
    slope = slope.diagonal(0, 0, 1)
    slope = slope.diagonal(0, 0, 1) if "h" in order else slope.unsqueeze(-1)
    return slope[:, :, 0, 0].movedim((-2, -1), (0, 1))


@pytest.mark.sampled("core", count=6)
@pytest.mark.parametrize("sizes", [SIZES, COINCIDING], ids=["apart", "coinciding"])
@pytest.mark.parametrize("order", ["bhtd", "bthd", "tbhd", "btd", "tbd"])
@pytest.mark.parametrize("core", [Softmax, Linear, Decaying])
@pytest.mark.parametrize("value", [None, "(v)"])
def test_a_core_of_attention(core, order, sizes, value):
    torch.manual_seed(len(order))
    module = core(order)
    q, k = (torch.randn(*(sizes[axis] for axis in order)) for _ in range(2))
    v = torch.randn(*(sizes["e" if axis == "d" else axis] for axis in order))
    layer = dsf.probe(module, q, k, v, value=value)
    assert layer.axes == ("sample", "head")
    expected = slopes(module, (q, k, v), order)
    torch.testing.assert_close(layer.map(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [5, 4])
def test_an_initial_state_is_not_the_values(steps):
    class Continued(nn.Module):
        def forward(self, state, q, k, v):
            out = []
            for t in range(q.shape[1]):
                state = 0.9 * state + k[:, t, :, None] * v[:, t, None, :]
                out.append((q[:, t, None, :] @ state)[..., 0, :])
            return torch.stack(out, 1)

    torch.manual_seed(steps)
    given = torch.randn(2, 4, 4), *torch.randn(3, 2, steps, 4)
    layer = dsf.probe(Continued(), *given)
    expected = slopes(Continued(), given, "btd")
    torch.testing.assert_close(layer.map(), expected, rtol=0, atol=1e-12)


def test_attention_across_two_sequences():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 6)
    layer = dsf.probe(Softmax("bhtd"), q, k, v)
    assert layer.axes == ("sample", "head")
    expected = (q.double() @ k.double().mT / 2).softmax(-1)
    torch.testing.assert_close(layer.map(), expected, rtol=0, atol=1e-12)


class Fading(nn.Module):
    """A decay for every head, by a matrix that could be that of a projection."""

    def forward(self, x):
        ages = torch.arange(x.shape[2])[:, None] - torch.arange(x.shape[2])
        rates = torch.linspace(0.5, 0.9, x.shape[1], dtype=x.dtype)
        return (rates[:, None, None] ** ages.clamp(min=0)).tril() @ x


@pytest.mark.parametrize("sizes", [(2, 3, 5, 4), (4, 4, 4, 4)])
def test_a_decay_for_every_head(sizes):
    samples, heads, steps, _ = sizes
    layer = dsf.probe(Fading(), torch.randn(sizes))
    expected = torch.zeros(samples, heads, steps, steps, dtype=torch.float64)
    for head, rate in enumerate(torch.linspace(0.5, 0.9, heads, dtype=torch.float64).tolist()):
        for t in range(steps):
            for s in range(t + 1):
                expected[:, head, t, s] = rate ** (t - s)
    torch.testing.assert_close(layer.map(), expected, rtol=0, atol=1e-12)


def test_a_linear_layer_mixes_channels_and_no_tokens():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(4, 4)

        def forward(self, x, y):
            return self.project(x) + y

    for module, given in ((nn.Linear(4, 4), 1), (Beside(), 2)):
        with pytest.raises(NothingCapturedError, match="no values"):
            dsf.probe(module, *torch.randn(given, 2, 5, 4))


class Scan(nn.Module):
    """A selective scan as its kernels take it: channels before tokens."""

    def forward(self, u, step, a, write, read):
        state, out = u.new_zeros(*u.shape[:2], a.shape[-1]), []
        for t in range(u.shape[-1]):
            decay = (step[..., t, None] * a).exp()
            state = decay * state + (step[..., t] * u[..., t])[..., None] * write[:, None, :, t]
            out.append((state * read[:, None, :, t]).sum(-1))
        return torch.stack(out, -1)


@pytest.mark.parametrize(("samples", "channels", "steps", "states"), [(2, 3, 6, 4), (4, 4, 4, 4)])
def test_a_selective_scan(samples, channels, steps, states):
    torch.manual_seed(states)
    u, step = torch.randn(samples, channels, steps), torch.rand(samples, channels, steps)
    write, read = torch.randn(2, samples, states, steps)
    given = (u, step, -torch.rand(channels, states), write, read)
    layer = dsf.probe(Scan(), *given)
    assert layer.axes == ("sample", "channel")
    wide = [each.double() for each in given]
    slope = torch.autograd.functional.jacobian(lambda u: Scan()(u, *wide[1:]), wide[0])
    own = slope.diagonal(0, 0, 3).diagonal(0, 0, 2).permute(2, 3, 0, 1)
    torch.testing.assert_close(layer.map(), own, rtol=0, atol=1e-12)
