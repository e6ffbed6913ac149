"""Rows that compiled loops make are the rows of the plain path, wherever they are written."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import row_blocks
from dsf.evaluate.compiled import row_loops
from dsf.mixers import SelectiveStateSpace
from dsf.runtime.shapes import ShapeError
from dsf.systems.coefficient import SampledWrite
from dsf.systems.transition import Diagonal, SampledDiagonal, ScaledIdentity
from tests.drawn import Drawer, literal_map, sampled

STRUCTURES = ("scaled_identity", "diagonal", "sampled_diagonal")
HEADS, STEPS, STATES = 3, 150, 5


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Loops take the smallest work, too."""
    monkeypatch.setattr("dsf.systems.kernels.WORTH", 0)


def plain(system, monkeypatch):
    """The map by the plain path."""
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        assert row_loops(system, system.steps) is None
        return dsf.attention_map(system)


def shared(steps=STEPS, dtype=torch.float64):
    """Two samples whose three heads share reads and writes, as in Mamba-2."""
    drawer = Drawer(3, dtype=dtype)
    step = drawer.real(2, HEADS, steps, low=0.1)
    write = drawer.tensor(2, 1, steps, STATES).expand(2, HEADS, steps, STATES)
    read = drawer.tensor(2, 1, steps, 1, STATES).expand(2, HEADS, steps, 1, STATES)
    A = ScaledIdentity(drawer.decay(2, HEADS, steps), STATES)
    feedthrough = drawer.tensor(2, HEADS, steps, 1, 1)
    return dsf.System(A, SampledWrite(step, write), read, feedthrough)


def systems(steps):
    drawer = Drawer(1)
    for structure in STRUCTURES:
        for before in (False, True):
            for batch in ((), (2, HEADS)):
                flags = {"reads_before_update": before}
                size = {"batch": batch, "steps": steps, "states": STATES}
                yield drawer.system(structure, **size, **flags)
    yield shared(steps)
    yield sampled(steps=steps)
    yield replace(sampled(steps=steps), reads_before_update=True)
    yield SelectiveStateSpace.draw(torch.Generator().manual_seed(0), steps=steps).system()


@pytest.mark.parametrize("steps", [1, 63, 64, 65, STEPS, 192])
def test_maps_are_those_of_the_plain_path(steps, monkeypatch):
    for system in systems(steps):
        assert row_loops(system, steps) is not None
        assert_close(dsf.attention_map(system), plain(system, monkeypatch))


@pytest.mark.parametrize("steps", [1, 65, STEPS, 192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_may_begin_anywhere_in_a_line_of_the_cache(steps, dtype, monkeypatch):
    """Whole lines go to memory by themselves."""
    for system in systems(steps):
        few = dsf.systems.algebra.converted(system, dtype=dtype)
        wanted = plain(few, monkeypatch)
        for skipped in range(3):
            memory = torch.full((skipped + wanted.numel() + 1,), torch.nan, dtype=dtype)
            out = memory[skipped:-1].view(wanted.shape)
            assert_close(dsf.attention_map(few, out=out), wanted, rtol=1e-5, atol=1e-6)
            assert memory[:skipped].isnan().all()
            assert memory[-1].isnan()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_maps_are_those_of_the_loop(structure):
    system = Drawer(2).system(structure, steps=STEPS, states=STATES)
    assert_close(dsf.attention_map(system), literal_map(system))


@pytest.mark.parametrize("size", [1, 30, 64, 100])
def test_blocks_and_some_rows(size, monkeypatch):
    for system in systems(STEPS):
        wanted = plain(system, monkeypatch)
        some = slice(70, 140)
        assert_close(dsf.attention_map(system, rows=some), wanted[..., some, :])
        kept = list(row_blocks(system, size=size))
        assert_close(torch.cat([block.weights for block in kept], dim=-2), wanted)
        for block in row_blocks(system, size=size, overwrites=True):
            assert_close(block.weights, wanted[..., block.written, :])


def test_a_map_is_written_into_memory_of_any_content(monkeypatch):
    for system in [*systems(STEPS), Drawer(4).system("low_rank", steps=STEPS)]:
        out = torch.full((*system.batch, STEPS, STEPS), torch.nan, dtype=torch.float64)
        assert dsf.attention_map(system, out=out) is out
        assert_close(out, plain(system, monkeypatch))
    some = torch.full((HEADS + 1, 70, STEPS), torch.nan, dtype=torch.float64)
    system = sampled(steps=STEPS)
    assert_close(
        dsf.attention_map(system, slice(70, 140), out=some), plain(system, monkeypatch)[:, 70:140]
    )
    apart = torch.full((STEPS, HEADS + 1, STEPS), torch.nan, dtype=torch.float64).movedim(0, 1)
    assert_close(dsf.attention_map(system, out=apart), plain(system, monkeypatch))


@pytest.mark.usefixtures("our_own_errors")
def test_memory_that_does_not_fit():
    system = sampled(steps=STEPS)
    with pytest.raises(ShapeError, match="'out'"):
        dsf.attention_map(system, out=torch.empty(4, STEPS, STEPS))
    out = torch.empty(4, STEPS // 2, STEPS, dtype=torch.float64)
    with pytest.raises(ValueError, match="consecutive"):
        dsf.attention_map(system, slice(0, None, 2), out=out)


REGIMES = {
    "ordinary": lambda rate: -rate,
    "slow": lambda rate: -1e-6 * rate,
    "violent": lambda rate: torch.where(rate < 0.05, -50.0, -rate),
    "resets": lambda rate: torch.where(rate < 0.01, -torch.inf, -rate),
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("kind", ["scalar", "diagonal"])
def test_single_precision_keeps_its_digits(regime, kind):
    steps, states = 1024, 4
    drawer = Drawer(5)
    rate = drawer.real(steps, 1 if kind == "scalar" else states, low=0.0)
    decay = REGIMES[regime](rate).exp().float()
    write, read = drawer.tensor(steps, states).float(), drawer.tensor(steps, states).float()
    A = ScaledIdentity(decay[:, 0], states) if kind == "scalar" else Diagonal(decay)
    system = dsf.System.from_write_and_read(A, write, read)
    found = dsf.attention_map(system, rows=slice(960, 1024)).double()
    held, rows = torch.zeros(states, steps, dtype=torch.float64), []
    for t in range(steps):
        held = held * decay[t, :, None].double()
        held[:, t] = write[t].double()
        rows.append(read[t].double() @ held)
    wanted = torch.stack(rows[960:])
    assert (found - wanted).abs().max() <= 3e-7 * wanted.abs().max()


def test_nan_stays_where_it_is(monkeypatch):
    for structure in STRUCTURES[:2]:
        system = Drawer(6).system(structure, batch=(2,), steps=STEPS, states=STATES)
        system.C[0, 100, 0, 0] = torch.nan
        found = dsf.attention_map(system)
        assert found[0, 100, :101].isnan().all()
        assert found.isnan().sum() == 101
        with monkeypatch.context() as off:
            off.setenv("DSF_KERNELS", "0")
            assert dsf.attention_map(system)[0, 100, :101].isnan().all()


def test_gradients_and_other_kinds_take_the_plain_path():
    drawer = Drawer(7)
    system = drawer.system("scaled_identity", steps=STEPS)
    wants = dsf.System(ScaledIdentity(system.A.decay.requires_grad_(), 3), system.B, system.C)
    assert row_loops(wants, STEPS) is None
    assert dsf.attention_map(wants).requires_grad
    for other in (
        drawer.system("diagonal", ports=(2, 1)),
        drawer.system("low_rank"),
        dsf.systems.algebra.reverse(drawer.system("diagonal")),
        Drawer(7, complex=True).system("diagonal"),
    ):
        assert row_loops(other, other.steps) is None


@pytest.mark.parametrize("threads", [1, 2, 8], indirect=True)
def test_pieces_of_a_batch_cover_it_once(threads):
    from dsf.evaluate.loops import pieces_of

    system = Drawer(8).system("diagonal", batch=(2, 5), steps=3, states=6)
    spans = [(piece.span.start, piece.span.stop) for piece in pieces_of(system, at_once=True)]
    assert [spans[0][0], spans[-1][1]] == [0, 10]
    assert all(first[1] == second[0] for first, second in pairwise(spans))
    assert len(spans) == 2 * min(threads, 5)


def test_a_sampled_diagonal_is_known():
    assert isinstance(sampled().A, SampledDiagonal)
    assert row_loops(sampled(), 6) is not None
