"""Errors of foreign modules become reasons; stepwise recurrences are one sequence."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import NothingCapturedError

SIZE = 6


class Same(nn.Module):
    """Asserts that its three arguments are one tensor."""

    def forward(self, query, key, value):
        assert query is key
        assert key is value
        return query.cumsum(dim=1)


class Once(nn.Module):
    """Asserts that it never runs a second time."""

    def __init__(self):
        super().__init__()
        self.runs = itertools.count()  # which nobody can set back

    def forward(self, x):
        assert not next(self.runs), "it ran before"
        return x.cumsum(dim=1)


class Before(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first, self.known = first, nn.LSTM(SIZE, SIZE, batch_first=True)

    def forward(self, x):
        mixed = self.first(x, x, x) if isinstance(self.first, Same) else self.first(x)
        return self.known(mixed)[0]


class Chosen(nn.Module):
    """Two tokens of each head keep their values, all others get the mean: ``sample token head``."""

    def forward(self, x):
        found = x.mean(2, keepdim=True).expand_as(x).clone()
        samples, heads = torch.arange(len(x))[:, None, None], torch.arange(2)[None, :, None]
        best = x.norm(dim=-1).topk(2, dim=2).indices
        found[samples, heads, best] = x[samples, heads, best]
        return found.transpose(1, 2).contiguous()


class Viewing(nn.Module):
    """Views what another module put side by side in memory, and sums over tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner = nn.Linear(3, 2 * SIZE), Chosen()

    def forward(self, x):
        x = self.embed(x)
        found = self.inner(x.unflatten(-1, (2, -1)).transpose(1, 2))
        return x + found.view(*x.shape).tanh().cumsum(1)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_arguments_that_are_one_tensor_stay_one():
    inspection = dsf.inspect(Before(Same()), drawn(1, SIZE, SIZE), probe=("first",))
    torch.testing.assert_close(
        inspection["first"].map()[0, 0], torch.ones(SIZE, SIZE).tril().double()
    )


def test_an_assert_of_a_module_is_a_reason_and_ends_nothing():
    for asked in ({"probe": ("first",)}, {}):
        inspection = dsf.inspect(Before(Once()), drawn(1, SIZE, SIZE), **asked)
        assert [layer.name for layer in inspection] == ["known[layer 0]"]
        (missed,) = inspection.unsupported
        assert missed.name == "first"
        assert "AssertionError: it ran before" in missed.reason


def test_what_a_held_module_returns_can_be_viewed_as_in_the_run():
    with pytest.raises(NothingCapturedError) as raised:
        dsf.inspect(Viewing(), drawn(2, SIZE, 3), probe=())
    assert "a replaced token moves others" in str(raised.value)
    assert "cannot be repeated" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("options", [{}, {"exact": True}, {"probe": ("first",)}])
def test_a_module_that_cannot_be_copied(options):
    filtered = nn.Sequential(nn.utils.weight_norm(nn.Linear(SIZE, SIZE)))
    inspection = dsf.inspect(Before(filtered), drawn(1, SIZE, SIZE), **options)
    assert "known[layer 0]" in [layer.name for layer in inspection]


class Keeps(nn.Module):
    """Keeps what it put out last, with its gradient, which no deepcopy takes."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(SIZE, SIZE)

    def forward(self, x):
        self.kept = self.project(x).cumsum(dim=1)
        return self.kept


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"probe": ("first",)}])
def test_a_module_that_keeps_a_tensor_of_an_earlier_run(options):
    model, x = Before(Keeps()), drawn(1, SIZE, SIZE)
    model(x)
    kept = model.first.kept
    assert kept.requires_grad
    inspection = dsf.inspect(model, x, **options)
    torch.testing.assert_close(
        inspection["first"].map()[0, 0], torch.ones(SIZE, SIZE).tril().double(), atol=1e-6, rtol=0
    )
    assert "known[layer 0]" in [layer.name for layer in inspection]


def test_complex_weights_in_double_precision():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.pole = nn.Parameter(torch.randn(SIZE, SIZE, dtype=torch.complex64))

        def forward(self, x):
            return (x.to(self.pole.dtype) @ self.pole).real

    layers = dsf.inspect(Before(Turned()), drawn(1, SIZE, SIZE), exact=True)
    assert layers[0].error < 1e-13


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrence_called_token_by_token_is_one_sequence(kind, batch_first):
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(SIZE, SIZE, batch_first=batch_first)

        def forward(self, x):
            state, outputs = None, []
            for token in x.split(1, dim=1 if batch_first else 0):
                y, state = self.rnn(token, state)
                outputs.append(y)
            return torch.cat(outputs, dim=1 if batch_first else 0)

    decoder, x = Decoder(), drawn(SIZE, SIZE, SIZE)
    (layer,) = dsf.inspect(decoder, x)
    (whole,) = dsf.inspect(decoder.rnn, x)
    torch.testing.assert_close(layer.map(), whole.map())
    assert layer.error < 1e-6


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell, nn.GRU])
def test_a_state_that_is_changed_between_the_steps_is_listed(kind):
    """A norm between the calls hands tokens on outside of the cell, so no map of it has them."""

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.norm = kind(SIZE, SIZE), nn.LayerNorm(SIZE)

        def forward(self, x):
            state, outputs = None, []
            for token in x.unbind(1):
                if kind is nn.GRU:
                    output, state = self.cell(token[None], state)
                    state = self.norm(state)
                else:
                    left = self.cell(token, state)
                    output = left[0] if kind is nn.LSTMCell else left
                    parts = left if kind is nn.LSTMCell else (left,)
                    parts = tuple(self.norm(part) for part in parts)
                    state = parts if kind is nn.LSTMCell else parts[0]
                outputs.append(output.reshape(len(x), SIZE))
            return torch.stack(outputs, dim=1)

    inspection = dsf.inspect(Before(Normed()), drawn(2, SIZE, SIZE))
    assert [layer.name for layer in inspection] == ["known[layer 0]"]
    (missed,) = inspection.unsupported
    assert missed.name == "first.cell"
    assert "between its calls the state is changed" in missed.reason


BRANCHES = """
import torch, dsf
from torch import nn
from tests.any_code.modules import WIDTH, Attention, drawn, tokens

class Branches(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.attention, self.part = Attention(), part

    def forward(self, x):
        x = x + self.attention(x)
        return torch.cond(x.mean() > -9, lambda x: x + self.part(x), torch.tanh, (x,))

model, x = drawn(Branches(PART)), tokens()
inspection = dsf.inspect(model, x)
assert [layer.name for layer in inspection][0] == "attention"
assert inspection.unsupported
model(x)
"""


@pytest.mark.parametrize("part", ["nn.Linear(WIDTH, WIDTH)", "nn.Tanh()", "Attention()"])
def test_branches_of_torch_are_listed_and_run_as_before(part):
    # In a process of its own, in which the compiler of torch was not used before.
    given = [sys.executable, "-c", BRANCHES.replace("PART", part)]
    done = subprocess.run(given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
