"""An axis of stride 0 costs nothing, and none of the verbs makes it cost something."""

import pytest
import torch
from torch.testing import assert_close

from dsf.systems.coefficient import SampledWrite, cast, cut, delay, flip, is_constant, on_stored
from dsf.systems.transition import DiagonalPlusLowRank


def spread(axis):
    """Random numbers of shape (3, 4, 5), the same all along one axis."""
    size = [3, 4, 5]
    size[axis] = 1
    return torch.rand(size, generator=torch.Generator().manual_seed(0)).expand(3, 4, 5)


ACTS = {
    "delay": lambda part: delay(part, 2, axis=-2),
    "flip": lambda part: flip(part, axis=-2),
    "cut": lambda part: cut(part, 1, 3, axis=-2),
    "cast": lambda part: cast(part, dtype=torch.float64),
}


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_other_axes_keep_their_stride(act, axis):
    part = spread(axis)
    acted = act(part)
    assert acted.stride(axis) == 0
    assert_close(acted, act(part.contiguous()))


def test_along_a_spread_time_axis():
    part = spread(1)
    assert flip(part, axis=1) is part
    assert is_constant(part, axis=1)
    assert_close(delay(part, 1, axis=1)[:, 0], torch.zeros(3, 5))
    assert_close(delay(part, 1, axis=1)[:, 1:], part[:, 1:])
    assert_close(delay(part, 9, axis=1, fill=2.0), torch.full((3, 4, 5), 2.0))


def test_stored_numbers_are_touched_once():
    seen = []
    on_stored(spread(0), lambda stored: seen.append(stored.shape) or stored)
    assert seen == [(1, 4, 5)]


def test_one_entry_along_the_axis_is_not_spread():
    one = torch.rand(1, 4)
    assert_close(flip(one.expand(1, 4), axis=1), one.flip(1))


def test_one_decay_for_all_states_stays_one():
    """The scalar form of a panel rests on it."""
    decay = torch.rand(6, 1).expand(6, 3)
    column = torch.rand(6, 3, 1)
    A = DiagonalPlusLowRank(decay, column, column)
    for moved in (A.flipped(), A.delayed(2), A.window(1, 4), A.to(dtype=torch.float64)):
        assert moved.decay.stride(-1) == 0


def test_a_write_shared_by_all_channels_stays_shared():
    write = torch.rand(1, 6, 3).expand(500, 6, 3)
    lazy = SampledWrite(torch.rand(500, 6), write)
    for moved in (lazy.flipped(), lazy.cut(1, 4), lazy.to(dtype=torch.float64)):
        assert moved.write.stride(0) == 0
    assert_close(lazy.flipped().dense(), lazy.dense().flip(-3))


def test_numbers_that_count_keep_counting():
    places = torch.ones(4, dtype=torch.long)
    assert cast(places, dtype=torch.float64) is places
