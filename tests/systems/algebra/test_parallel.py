"""Systems side by side: the maps are added, or each keeps to its own ports."""

from dataclasses import replace
from itertools import product

import pytest
from torch.testing import assert_close

import dsf
from dsf.runtime.shapes import ShapeError
from dsf.systems.algebra import direct_sum, parallel
from dsf.systems.composite import SystemSum
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, SampledDiagonal
from tests.drawn import STRUCTURES, Drawer, sampled

STEPS = 6
ours = pytest.mark.usefixtures("our_own_errors")
complexes = pytest.mark.parametrize("complex", [False, True])
backwards = pytest.mark.parametrize("backward", [False, True])


@pytest.mark.sampled("first", count=2)
@pytest.mark.parametrize("second", STRUCTURES)
@pytest.mark.parametrize("first", STRUCTURES)
@backwards
def test_parallel_adds_maps_in_one_system(first, second, backward):
    drawer = Drawer(8)
    flags = {"steps": STEPS, "ports": (2, 3), "runs_backward": backward}
    for before in product((False, True), (False, True)):
        one = drawer.system(first, reads_before_update=before[0], **flags)
        other = drawer.system(second, reads_before_update=before[1], **flags)
        both = parallel(one, other)
        assert isinstance(both, dsf.System)
        assert both.state_size == 6
        assert_close(dsf.attention_map(both), dsf.attention_map(one) + dsf.attention_map(other))


@complexes
def test_parallel_adds_responses_from_initial_states(complex):
    drawer = Drawer(9, complex=complex)
    resting = drawer.system("diagonal", steps=STEPS)
    moving = [drawer.system(name, steps=STEPS, initial=2) for name in ("dense", "shift")]
    signal = drawer.tensor(STEPS, 1, 2)
    together = dsf.respond(parallel(resting, *moving), signal)
    assert_close(together, sum(dsf.respond(part, signal) for part in (resting, *moving)))


def test_parallel_keeps_structure():
    drawer = Drawer(10)
    diagonal, scaled, low = (
        drawer.system(name, steps=STEPS) for name in ("diagonal", "scaled_identity", "low_rank")
    )
    assert type(parallel(diagonal, scaled).A) is Diagonal
    assert type(parallel(diagonal, low).A) is DiagonalPlusLowRank
    assert parallel(low, low).A.left.shape[-1] == 4
    alike = sampled()
    assert type(parallel(alike, alike).A) is SampledDiagonal
    assert type(parallel(sampled(1), sampled(2)).A) is Diagonal


def test_parallel_in_both_directions_is_a_sum():
    drawer = Drawer(11)
    forward = drawer.system("diagonal", steps=STEPS)
    backward = replace(drawer.system("low_rank", steps=STEPS), runs_backward=True)
    both = parallel(forward, backward)
    assert isinstance(both, SystemSum)
    wanted = dsf.attention_map(forward) + dsf.attention_map(backward)
    assert_close(dsf.attention_map(both), wanted)
    assert_close(dsf.attention_map(both, rows=slice(2, 4)), wanted[2:4])
    assert parallel(both, forward).parts == (forward, backward, forward)


def test_parallel_of_real_parts():
    drawer = Drawer(12, complex=True)
    turning = drawer.system("diagonal", steps=STEPS, takes_real_part=True)
    plain = Drawer(13).system("diagonal", steps=STEPS)
    signal = Drawer(14).tensor(STEPS, 1, 2)
    wanted = dsf.respond(turning, signal) + dsf.respond(plain, signal)
    both = parallel(turning, plain)
    assert both.takes_real_part
    assert_close(dsf.respond(both, signal), wanted)
    complex = replace(turning, takes_real_part=False)
    assert isinstance(parallel(turning, complex), SystemSum)


def test_direct_sum_keeps_ports_apart():
    drawer = Drawer(15)
    one = drawer.system("diagonal", steps=STEPS, ports=(1, 2))
    other = drawer.system("low_rank", steps=STEPS, ports=(3, 1))
    map = dsf.attention_map(direct_sum(one, other))
    by_port = map.unflatten(-1, (STEPS, 4)).unflatten(0, (STEPS, 3))
    blocks = (
        by_port[:, :2, :, :1].flatten(0, 1).flatten(-2),
        by_port[:, 2:, :, 1:].flatten(0, 1).flatten(-2),
    )
    assert_close(blocks[0], dsf.attention_map(one))
    assert_close(blocks[1], dsf.attention_map(other))
    assert not by_port[:, :2, :, 1:].any()
    assert not by_port[:, 2:, :, :1].any()


@ours
def test_connections_need_a_system_and_one_place():
    drawer = Drawer(16)
    for connect in (parallel, direct_sum):
        with pytest.raises(ValueError, match="at least one"):
            connect()
    with pytest.raises(ShapeError, match="'output'"):
        parallel(drawer.system("dense"), drawer.system("dense", ports=(1, 2)))
    with pytest.raises(ShapeError, match="'channel'"):
        parallel(drawer.system("dense", initial=2), drawer.system("dense", initial=3))
