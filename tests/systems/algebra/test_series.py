"""One system after the other: the maps are multiplied."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.runtime.shapes import ShapeError
from dsf.systems.algebra import series
from dsf.systems.transition import Dense, DiagonalPlusLowRank
from tests.drawn import STRUCTURES, Drawer, attention, literal_response

STEPS = 6
ours = pytest.mark.usefixtures("our_own_errors")
complexes = pytest.mark.parametrize("complex", [False, True])
befores = pytest.mark.parametrize("before", [False, True])
backwards = pytest.mark.parametrize("backward", [False, True])


@pytest.mark.sampled("first", count=2)
@pytest.mark.parametrize("second", STRUCTURES)
@pytest.mark.parametrize("first", STRUCTURES)
def test_series_multiplies_maps(first, second):
    drawer = Drawer(1)
    for before in product((False, True), (False, True)):
        early = drawer.system(first, steps=STEPS, ports=(2, 3), reads_before_update=before[0])
        late = drawer.system(second, steps=STEPS, ports=(3, 1), reads_before_update=before[1])
        both = series(early, late)
        assert_close(dsf.attention_map(both), dsf.attention_map(late) @ dsf.attention_map(early))
        assert both.state_size == 6


@befores
@backwards
@complexes
def test_series_responds_as_one_after_the_other(before, backward, complex):
    drawer = Drawer(2, complex=complex)
    flags = {"runs_backward": backward, "steps": STEPS, "initial": 4}
    first = drawer.system("low_rank", ports=(2, 3), reads_before_update=before, **flags)
    second = drawer.system("diagonal", ports=(3, 2), **flags)
    signal = drawer.tensor(STEPS, 2, 4)
    middle, _ = literal_response(first, signal)
    assert_close(dsf.respond(series(first, second), signal), literal_response(second, middle)[0])


def test_series_keeps_what_structure_it_can():
    drawer = Drawer(3)
    diagonal, low, dense = (
        drawer.system(name, steps=STEPS) for name in ("diagonal", "low_rank", "dense")
    )
    assert type(series(diagonal, diagonal).A) is DiagonalPlusLowRank
    assert series(diagonal, low).A.left.shape[-1] == 2 + 1
    assert type(series(diagonal, dense).A) is Dense


def test_series_of_attention_layers():
    first, second = attention(1), attention(2)
    both = series(first, second)
    assert_close(dsf.attention_map(both), dsf.attention_map(second) @ dsf.attention_map(first))
    assert type(both.A) is DiagonalPlusLowRank


@pytest.mark.parametrize("real", [(True, False), (True, True), (False, True)])
def test_series_where_real_parts_are_taken(real):
    """A real signal in between, whether it comes from a real system or as a real part."""
    first = Drawer(4, complex=real[0]).system("diagonal", steps=STEPS, takes_real_part=real[0])
    second = Drawer(5, complex=real[1]).system("diagonal", steps=STEPS, takes_real_part=real[1])
    signal = Drawer(6).tensor(STEPS, 1, 3)
    both = dsf.respond(series(first, second), signal)
    assert both.dtype == torch.float64
    assert_close(both, dsf.respond(second, dsf.respond(first, signal)))


@ours
def test_series_refuses_what_has_no_meaning():
    drawer = Drawer(7, complex=True)
    system = drawer.system("diagonal", ports=(2, 2))
    with pytest.raises(ShapeError, match="'between'"):
        series(system, drawer.system("diagonal", ports=(3, 1)))
    with pytest.raises(ValueError, match="backward"):
        series(system, replace(system, runs_backward=True))
    with pytest.raises(ValueError, match="complex"):
        series(system, replace(system, takes_real_part=True))
    with pytest.raises(ShapeError, match="'time'"):
        series(system, drawer.system("diagonal", ports=(2, 2), steps=4))
