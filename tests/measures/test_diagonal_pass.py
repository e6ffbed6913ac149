"""Diagonal systems in one pass with a stated error: what is skipped stays under it."""

from functools import partial

import pytest
from torch.testing import assert_close

import dsf
from dsf import measures
from tests.drawn import Drawer, sampled

STEPS = 700
SHARES = (measures.negative_share, measures.sink_mass, partial(measures.window_mass, width=100))
ASKED = (*SHARES, measures.mean_distance, measures.row_entropy)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Loops take the smallest work, too."""
    monkeypatch.setattr("dsf.systems.kernels.availability.WORTH", 0)


def diagonal(**flags):
    drawer = Drawer(6)
    system = drawer.system("diagonal", batch=(2, 2), steps=STEPS, **flags)
    A = dsf.systems.transition.Diagonal(system.A.decay.abs().clamp(0.3, 0.97))
    return dsf.System(A, system.B, system.C, system.D, reads_before_update=bool(flags))


CASES = {
    "sampled": lambda: sampled(steps=STEPS),
    "written out": diagonal,
    "read before": lambda: diagonal(reads_before_update=True),
    "alone": lambda: dsf.systems.algebra.select(diagonal(), (0, 1)),
}


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_skipped_stays_under_the_error(case, together, monkeypatch):
    system = case()
    monkeypatch.setattr("dsf.measures.diagonal_pass.ENTRIES", together * 64 * STEPS)
    map = dsf.attention_map(system)
    for error in (1e-2, 1e-6):
        found = measures.streamed(system, *ASKED, error=error)
        for measure, value in zip(ASKED, found.values, strict=True):
            assert (value - measure(map)).abs().max() <= error
        assert found.left_out.shape == system.batch
        assert (found.left_out <= error).all()
        assert found.visited < 0.95
    assert (found.left_out > 0).any()


def test_nothing_is_left_out_across_zeros():
    system = diagonal()
    system.A.decay[:] = 1 - 1e-6
    system.A.decay[..., 320, :] = 0
    found = measures.streamed(system, *ASKED, error=1e-6)
    map = dsf.attention_map(system)
    for measure, value in zip(ASKED, found.values, strict=True):
        assert_close(value, measure(map))
    assert (found.left_out == 0).all()
    assert found.visited < 0.8


def test_what_never_fades_is_visited_whole():
    system = diagonal()
    system.A.decay[0, 0] = 1.0
    found = measures.streamed(system, *ASKED, error=1e-2)
    assert found.left_out[0, 0] == 0
    assert_close(found.values[-1][0, 0], measures.row_entropy(dsf.attention_map(system)[0, 0]))
