"""Responses into given memory are the same numbers, whatever evaluates them."""

import pytest
import torch

import dsf
from dsf.mixers import SelectiveStateSpace, StateSpaceDuality
from dsf.runtime.shapes import ShapeError
from dsf.systems.composite import SystemSum
from tests.drawn import Drawer

STEPS, DRAWER = 70, Drawer(7, dtype=torch.float32)


def mamba():
    return SelectiveStateSpace(
        value=DRAWER.tensor(2, STEPS, 5),
        step=DRAWER.real(2, STEPS, 5, low=0.01),
        pole=-DRAWER.real(5, 4, low=0.5, high=3.0),
        write=DRAWER.tensor(2, STEPS, 4),
        read=DRAWER.tensor(2, STEPS, 4),
        feedthrough=DRAWER.tensor(5),
    )


def mamba_2():
    return StateSpaceDuality(
        value=DRAWER.tensor(2, 3, STEPS, 16),
        step=DRAWER.real(2, 3, STEPS, low=0.01),
        pole=-DRAWER.real(3, low=0.5, high=3.0),
        write=DRAWER.tensor(2, 1, STEPS, 4),
        read=DRAWER.tensor(2, 1, STEPS, 4),
        feedthrough=DRAWER.tensor(3),
    )


@pytest.mark.parametrize("draw", [mamba, mamba_2])
@pytest.mark.parametrize("worth", [0, 2**40], ids=["compiled", "plain"])
def test_an_earlier_response_is_written_over(draw, worth, monkeypatch):
    monkeypatch.setattr("dsf.systems.kernels.WORTH", worth)
    mixer = draw()
    system, signal = mixer.system(), mixer.signal()
    expected = dsf.respond(system, signal)
    out = dsf.respond(system, 2 * signal)
    place = out.data_ptr()
    found = dsf.respond(system, signal, out=out)
    assert found is out
    assert out.data_ptr() == place
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("worth", [0, 2**40], ids=["compiled", "plain"])
def test_memory_of_any_order_and_systems_that_run_backward(worth, monkeypatch):
    monkeypatch.setattr("dsf.systems.kernels.WORTH", worth)
    mixer = mamba_2()
    system, signal = mixer.system(), mixer.signal()
    for each in (system, dsf.systems.algebra.reverse(system)):
        expected = dsf.respond(each, signal)
        out = torch.full_like(expected.mT.contiguous(), torch.nan).mT
        torch.testing.assert_close(dsf.respond(each, signal, out=out), expected)
        torch.testing.assert_close(out, expected)


def test_a_sum_and_a_method():
    mixer = mamba_2()
    system, signal = mixer.system(), mixer.signal()
    both = SystemSum((system, system))
    out = torch.empty_like(signal)
    torch.testing.assert_close(dsf.respond(both, signal, out=out), dsf.respond(both, signal))
    found = dsf.respond(system, signal, method="recurrent", out=out)
    torch.testing.assert_close(found, dsf.respond(system, signal))
    assert found is out


@pytest.mark.parametrize(
    "wrong", [torch.empty(2, 3, STEPS - 1, 1, 16), torch.empty(2, 3, STEPS, 1, 16).double()]
)
def test_what_does_not_fit_is_refused(wrong):
    mixer = mamba_2()
    with pytest.raises(ShapeError, match="'out'"):
        dsf.respond(mixer.system(), mixer.signal(), out=wrong)
