"""Many measures in one pass: the same numbers, and what is skipped stays under the stated error."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf import measures
from dsf.systems.coefficient import SampledWrite
from dsf.systems.transition import ScaledIdentity
from tests.drawn import Drawer, attention

ROWWISE = (
    measures.absolute_gain,
    measures.convexity_defect,
    measures.effective_tokens,
    measures.mean_distance,
    measures.negative_mass,
    measures.negative_share,
    measures.row_entropy,
    measures.row_norms,
    measures.sink_mass,
    measures.smallest_entry,
    partial(measures.window_mass, width=3),
    partial(measures.window_mass, width=100),
)
STEPS, STATES = 200, 5


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Loops take the smallest work, too."""
    monkeypatch.setattr("dsf.systems.kernels.WORTH", 0)


def heads(rates, *, steps, dtype=torch.float64, seed=3):
    """Heads that share reads and writes and forget ``rate`` nats a token."""
    drawer = Drawer(seed, dtype=dtype)
    rate = torch.as_tensor(rates, dtype=dtype)[:, None]
    spread = drawer.real(len(rates), steps, low=0.5, high=1.5)
    write = drawer.tensor(1, steps, STATES).expand(len(rates), steps, STATES)
    read = drawer.tensor(1, steps, 1, STATES).expand(len(rates), steps, 1, STATES)
    A = ScaledIdentity((-rate * spread).exp(), STATES)
    return dsf.System(A, SampledWrite(spread, write), read, drawer.tensor(len(rates), steps, 1, 1))


def systems():
    drawer = Drawer(1)
    for before in (False, True):
        flags = {"reads_before_update": before, "batch": (2,)}
        yield drawer.system("scaled_identity", steps=STEPS, states=STATES, **flags)
    yield heads([2.0, 0.1, 0.001], steps=STEPS)
    yield drawer.system("low_rank", steps=9)
    yield attention()


def test_one_pass_finds_what_each_measure_finds_in_the_map(monkeypatch):
    for system in systems():
        found = measures.streamed(system, *ROWWISE)
        with monkeypatch.context() as off:
            off.setenv("DSF_KERNELS", "0")
            map = dsf.attention_map(system)
        for measure, value in zip(ROWWISE, found.values, strict=True):
            assert_close(value, measure(map), equal_nan=True)
            assert_close(measure(system), value, equal_nan=True)


@pytest.mark.parametrize("error", [1e-2, 1e-6])
def test_what_is_skipped_stays_under_the_error(error):
    """In the units that the docstring gives, against the whole map."""
    system = heads([1.0, 0.3, 0.05, 0.0], steps=1000)
    map = dsf.attention_map(system)
    shares = (measures.negative_share, measures.sink_mass, partial(measures.window_mass, width=8))
    rows = (measures.mean_distance, measures.row_entropy)
    found = measures.streamed(system, *shares, *rows, measures.row_norms, error=error)
    for measure, value in zip((*shares, *rows), found.values, strict=False):
        assert (value - measure(map)).abs().max() <= error
    weight = map.abs().sum(dim=-1)
    assert ((found.values[-1] - measures.row_norms(map)).abs() <= error * weight).all()
    assert (found.left_out <= error).all()
    assert found.left_out[3] == 0
    assert found.left_out[0] > 0
    assert found.visited < 0.8


def test_a_bound_that_is_met_is_kept():
    """A state that is written and read with ones adds all that it can, here from far away."""
    one = torch.ones(2, 2400, 1, dtype=torch.float64)
    kept = torch.tensor([0.9, 0.9925], dtype=torch.float64)[:, None].expand(2, 2400)
    system = dsf.System.from_write_and_read(ScaledIdentity(kept, 1), one, one)
    expected = measures.mean_distance(dsf.attention_map(system))
    found = measures.streamed(system, measures.mean_distance, error=1e-2)
    assert (found.values[0] - expected).abs().max() <= 1e-2
    assert found.visited < 1


def test_the_certificate_covers_what_is_left_out():
    """The share of a row's weight that lies where nobody looked is never above the bound."""
    system = heads([0.2, 0.05], steps=1000)
    weight = dsf.attention_map(system).abs().sum(dim=-1)
    for error in (1e-1, 1e-3):
        found = measures.streamed(system, measures.absolute_gain, error=error)
        gain = weight.amax(dim=-1)
        assert ((gain - found.values[0]) <= found.left_out * gain).all()
        assert (found.values[0] < gain).any()
        assert found.visited < 1


def test_resets_are_skipped_for_nothing():
    """Across an exact zero nothing passes: exact, and not looked at."""
    system = heads([0.0, 0.01], steps=1000)
    system.A.decay[:, 640] = 0
    found = measures.streamed(system, measures.row_entropy, measures.mean_distance)
    map = dsf.attention_map(system)
    assert_close(found.values, (measures.row_entropy(map), measures.mean_distance(map)))
    assert (found.left_out == 0).all()
    assert found.visited < 0.8


def test_signs_of_decays_take_the_plain_path():
    drawer = Drawer(5)
    system = drawer.system("scaled_identity", steps=STEPS)
    turned = dsf.System(ScaledIdentity(-system.A.decay, 3), system.B, system.C, system.D)
    found = measures.streamed(turned, measures.negative_mass, error=1e-3)
    assert_close(found.values[0], measures.negative_mass(dsf.attention_map(turned)))
    assert found.visited == 1


def test_progress_is_told():
    told = []
    system = heads([0.1], steps=130)
    measures.streamed(system, measures.row_norms, progress=lambda *each: told.append(each))
    assert told == [(64, 130), (128, 130), (130, 130)]


@pytest.mark.usefixtures("our_own_errors")
def test_what_cannot_be_streamed():
    map = torch.eye(3)
    with pytest.raises(TypeError, match="effective_rank"):
        measures.streamed(map, measures.effective_rank)
    with pytest.raises(ValueError, match="at least one"):
        measures.streamed(map)
    with pytest.raises(ValueError, match="'error'"):
        measures.streamed(map, measures.row_norms, error=0.5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("batch", [(), (5,), (2, 5), (2, 1, 3)])
def test_maps_of_scores_are_measured_together_as_they_are_alone(batch, monkeypatch):
    monkeypatch.setattr("dsf.measures.hankel.together", lambda _: 2)
    rng = torch.Generator().manual_seed(4)
    query, key, value = torch.randn(3, *batch, 70, 4, generator=rng, dtype=torch.float64)
    sink = torch.randn(batch, generator=rng, dtype=torch.float64)
    mixer = dsf.mixers.SoftmaxAttention(
        query=query, key=key, value=value, causal=True, scale=0.5, sink=sink
    )
    together = measures.streamed(mixer.system(), *ROWWISE, measures.mass_by_lag).values
    alone = measures.streamed(dsf.attention_map(mixer.system()), *ROWWISE, measures.mass_by_lag)
    for one, other in zip(together, alone.values, strict=True):
        assert_close(one, other, rtol=1e-11, atol=1e-11)
    ranks = measures.hankel_ranks(mixer.system(), positions=[34])
    assert torch.equal(
        ranks, measures.hankel_ranks(dsf.attention_map(mixer.system()), positions=[34])
    )
