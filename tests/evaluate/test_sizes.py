"""Windows of a size that the sizes of a system call for, as many at once as memory is meant for."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import final_state
from dsf.evaluate.chunks import _boundaries
from dsf.evaluate.windows import (
    TOGETHER,
    TOGETHER_ON_DEVICES,
    stepped_size,
    window_size,
    windows_at_once,
)
from dsf.systems.transition import Dense, Diagonal, DiagonalPlusLowRank, ScaledIdentity
from tests.drawn import STRUCTURES, Drawer


def of_size(structure, *size, device="cpu"):
    """``size`` counts sequences, tokens and states."""
    decay = torch.empty((), device=device).expand(size)
    column = decay.unsqueeze(-1)
    A = {
        "scalar": lambda: ScaledIdentity(decay[..., 0], size[-1]),
        "diagonal": lambda: Diagonal(decay),
        "delta rule": lambda: DiagonalPlusLowRank(decay, column, column),
        "dense": lambda: Dense(column.expand(*size, size[-1])),
    }[structure]()
    return dsf.System.from_write_and_read(A, decay, decay)


@pytest.mark.parametrize(
    ("structure", "size", "channels"),
    [
        ("scalar", (24, 4096, 128), 64),
        ("delta rule", (8, 2048, 128), 128),
        ("diagonal", (4, 2048, 128), 256),
    ],
)
def test_published_sizes(structure, size, channels):
    """On graphics cards 64 to 128 tokens; on processors no more."""
    assert window_size(of_size(structure, *size, device="meta"), channels) in (64, 128)
    assert window_size(of_size(structure, *size), channels) in (32, 64)


def test_between_many_ports_windows_are_short():
    """Of 512 ports and 256 states a map of 32 tokens would be a hundred times the work."""
    decay, ports = torch.ones(()).expand(8, 256), torch.ones(()).expand(8, 256, 512)
    assert window_size(dsf.System(A=Diagonal(decay), B=ports, C=ports.mT), 1) <= 4


def test_states_that_are_stepped_through_stay_in_the_cache():
    """At most 2^17 numbers at a time, but 16 tokens at least."""
    sizes = [stepped_size(of_size("diagonal", heads, 4096, 16), 1) for heads in (16, 128, 4096)]
    assert sizes == [256, 64, 16]


@pytest.mark.parametrize("structure", ["scalar", "diagonal", "delta rule", "dense"])
@pytest.mark.parametrize(("device", "limit"), [("cpu", TOGETHER), ("meta", TOGETHER_ON_DEVICES)])
def test_windows_that_are_folded_at_once_fit_their_number_of_entries(structure, device, limit):
    """The pairs, reads and writes of all of them."""
    size, states = 64, 32
    for heads in (1, 8, 512):
        at_once = windows_at_once(of_size(structure, heads, 4096, states, device=device), 16, size)
        entries = heads * (size * size + 2 * size * states)
        assert at_once == 1 or at_once * entries <= limit
        if heads == 1:
            assert at_once > 1


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_windows_at_once_or_one_by_one(structure, complex, before, monkeypatch):
    """Two at once, or one, or all: responses, states left behind and gradients; nine and a half."""
    drawer = Drawer(3, complex=complex)
    flags = {"initial": 5, "reads_before_update": before}
    system = drawer.system(structure, batch=(2,), steps=38, ports=(2, 3), **flags)
    signal = drawer.tensor(2, 38, 2, 5)
    parts = [system.B.requires_grad_(), system.initial.requires_grad_(), signal.requires_grad_()]
    found = []
    for at_once in (1, 2, 100):
        monkeypatch.setattr("dsf.evaluate.windows.windows_at_once", lambda *_, k=at_once: k)
        monkeypatch.setattr("dsf.evaluate.windows.window_size", lambda *_: 4)
        response = dsf.evaluate.chunkwise(system, signal)
        gradients = torch.autograd.grad(response.abs().square().sum(), parts)
        found.append((response, final_state(system, signal), *gradients))
    expected = dsf.evaluate.recurrent(system, signal)
    for each in found:
        assert_close(each[0], expected)
        assert_close(each, found[0])


def test_groups_of_windows_end_with_what_is_left():
    assert _boundaries(38, 4, 2) == [0, 8, 16, 24, 32, 36, 38]
    assert _boundaries(36, 4, 100) == [0, 36]
    assert _boundaries(3, 4, 2) == [0, 3]


def test_systems_that_do_not_change_in_windows_of_their_own_size():
    drawer = Drawer(5)
    still = replace(
        drawer.system("diagonal", steps=100),
        A=Diagonal(drawer.decay(3).expand(100, 3)),
        **{name: drawer.tensor(1, *size).expand(100, *size) for name, size in SHAPES.items()},
    )
    signal = drawer.tensor(100, 1, 6)
    expected = dsf.evaluate.recurrent(still, signal)
    for method in (dsf.evaluate.chunkwise, partial(dsf.evaluate.chunkwise, size=32)):
        assert_close(method(still, signal), expected)


SHAPES = {"B": (3, 1), "C": (1, 3), "D": (1, 1)}
