"""A model in which nothing else mixes is asked as a whole; one layer that differs is found."""

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

import dsf
from dsf.inspection.causal import findings
from tests.any_code import modules
from tests.any_code.modules import WIDTH, drawn, tokens

DEPTH, ODD = 9, 5


class Deep(nn.Module):
    """Many attentions one after the other, of which one may do something else."""

    def __init__(self, kind=modules.Attention):
        super().__init__()
        self.layers = nn.ModuleList([kind() for _ in range(DEPTH)])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(layer_norm(x, (WIDTH,)) / 2)
        return x


class Mischief(modules.Attention):
    """An attention whose instances can be told to mix tokens in another way, too."""

    shifts, leaves, hides = False, False, False

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.arange(tokens().shape[1]))

    def forward(self, x):
        mixed = super().forward(x) + 0 * x[:, self.order]
        if self.shifts:
            mixed = mixed + x.roll(1, dims=1)
        if self.leaves:
            mixed = mixed + torch.from_numpy(np.roll(x.detach().numpy(), 1, axis=1))
        if self.hides:
            mixed = mixed + behind_torch(x).roll(1, dims=1)
        return mixed


def behind_torch(x):
    """The same numbers, by a way that neither torch nor NumPy sees."""
    numbers = bytearray(ctypes.string_at(x.data_ptr(), x.nbytes))
    return torch.frombuffer(numbers, dtype=x.dtype).reshape(x.shape)


def shifted(layer):
    layer.shifts = True


def permuted(layer):
    layer.order = layer.order.roll(1)


def left(layer):
    layer.leaves = True


def hidden(layer):
    layer.hides = True


def replaced(layer):
    plain = layer.forward
    layer.forward = lambda x: plain(x) + x.roll(1, dims=1)


def hooked(layer):
    layer.register_forward_hook(lambda _, given, output: output + given[0].roll(1, dims=1))


def test_a_model_is_asked_as_a_whole_where_only_what_was_read_mixes():
    records = list(dsf.inspect(drawn(Deep()), tokens()).checks)
    assert [record["module"] for record in records] == [f"layers.{k}" for k in range(DEPTH)]
    assert {record["answer"] for record in records} == {"all of it"}
    assert {record["share"] for record in records} == {1.0}
    assert {record["note"] for record in records} == {findings.SILENT}


@pytest.mark.sampled(count=2)
@pytest.mark.parametrize("change", [shifted, permuted, left, hidden, replaced, hooked])
@pytest.mark.parametrize("odd", [ODD, DEPTH - 1])
def test_one_that_does_something_else_is_asked_itself(odd, change, monkeypatch):
    model = drawn(Deep(Mischief))
    with torch.no_grad():
        for layer in model.layers:
            layer.order.copy_(torch.arange(len(layer.order)))
    change(model.layers[odd])
    found = dsf.inspect(model, tokens(), probe=())
    monkeypatch.setattr(findings, "_are_silent", lambda *_: False)
    every = dsf.inspect(model, tokens(), probe=())
    answers = [[(one["module"], one["answer"]) for one in each.checks] for each in (found, every)]
    assert answers[0] == answers[1]
    assert [one.name for one in found.unsupported] == [one.name for one in every.unsupported]
    (own,) = (one for one in found.checks if one["module"] == f"layers.{odd}")
    assert own["note"] != findings.SILENT


class Pooled(Deep):
    """One that returns no tokens, so that its last layer is seen in its own output alone."""

    def forward(self, x):
        return super().forward(x).mean(dim=1)


def test_the_last_layer_of_a_pooled_model_is_watched_itself():
    model = drawn(Pooled(Mischief))
    shifted(model.layers[-1])
    found = dsf.inspect(model, tokens(), probe=())
    answers = {record["module"]: record["answer"] for record in found.checks}
    assert answers[f"layers.{DEPTH - 1}"] == "a part"


def in_a_thread(x):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: x.detach().clone()).result()


def by_dlpack(x):
    return torch.from_numpy(np.from_dlpack(x.detach()).copy())


def as_data(x):
    return x.data.clone()


def as_assigned_data(x):
    other = torch.empty_like(x)
    other.data = x.clone()
    return other


def as_assigned_data_of_a_thread(x):
    other = torch.empty_like(x)
    other.data = in_a_thread(x)
    return other


def as_bits(x):
    return x.view(torch.int32).clone().view(torch.float32)


def as_bytes(x):
    return x.contiguous().view(torch.uint8).clone().view(torch.float32)


class Weighed(modules.Attention):
    """A second path with a weight, by a way that is followed or not."""

    def __init__(self, way):
        super().__init__()
        self.way, self.gain = way, nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return super().forward(x) + self.gain * self.way(x).roll(1, dims=1)


WAYS = [torch.clone, behind_torch, by_dlpack, as_bits, as_bytes, in_a_thread]
DATA = [as_data, as_assigned_data, as_assigned_data_of_a_thread]


@pytest.mark.sampled(count=3)
@pytest.mark.parametrize("way", [*WAYS, *DATA])
def test_an_answer_is_not_handed_on_where_weights_decide(way):
    """One layer has a path whose weight is zero in all others, which run the same operations."""
    model = drawn(Deep(lambda: Weighed(way)))
    with torch.no_grad():
        for k, layer in enumerate(model.layers):
            layer.gain.fill_(float(k == ODD))
    found = dsf.inspect(model, tokens(), probe=())
    answers = {record["module"]: record["answer"] for record in found.checks}
    assert answers[f"layers.{ODD}"] == "a part"
    assert all(not math.isnan(record["moved"]) for record in found.checks)


@pytest.mark.parametrize("gain", [1.0, 1e-6])
def test_a_slight_path_in_the_last_layer_of_a_pooled_model_is_found(gain):
    model = drawn(Pooled(lambda: Weighed(as_bits)))
    with torch.no_grad():
        for k, layer in enumerate(model.layers):
            layer.gain.fill_(gain if k == DEPTH - 1 else 0.0)
    found = dsf.inspect(model, tokens(), probe=())
    answers = [record["answer"] for record in found.checks]
    assert answers == ["all of it"] * (DEPTH - 1) + ["a part"]
