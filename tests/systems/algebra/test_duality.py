"""The transposed map, the reversed sequence."""

import pytest
from torch.testing import assert_close

import dsf
from dsf.systems.algebra import adjoint, reverse
from dsf.systems.coefficient import SampledWrite
from dsf.systems.composite import ExplicitMap, StoredRows
from dsf.systems.transition import SampledDiagonal
from tests.drawn import STRUCTURES, Drawer, attention, both_ways, sampled

STEPS = 6
structures = pytest.mark.parametrize("structure", STRUCTURES)
befores = pytest.mark.parametrize("before", [False, True])
backwards = pytest.mark.parametrize("backward", [False, True])


@structures
@befores
@backwards
def test_the_adjoint_has_the_transposed_map(structure, before, backward):
    system = Drawer(24, complex=True).system(
        structure,
        steps=STEPS,
        ports=(2, 3),
        initial=4,
        reads_before_update=before,
        runs_backward=backward,
    )
    map = dsf.attention_map(system)
    turned = adjoint(system)
    assert turned.runs_backward != backward
    assert type(turned.A) is type(system.A)
    assert_close(dsf.attention_map(turned), map.mT)
    assert_close(dsf.attention_map(adjoint(system, conjugate=True)), map.mH)
    assert_close(dsf.attention_map(adjoint(turned)), map)
    signal = Drawer(25, complex=True).tensor(STEPS, 3, 1)
    assert_close(dsf.respond(turned, signal).flatten(), map.mT @ signal.flatten())


@structures
@backwards
def test_reversal(structure, backward):
    drawer = Drawer(26, complex=True)
    system = drawer.system(structure, steps=STEPS, initial=2, runs_backward=backward)
    turned = reverse(system)
    signal = drawer.tensor(STEPS, 1, 2)
    assert_close(dsf.respond(turned, signal.flip(0)).flip(0), dsf.respond(system, signal))
    assert_close(dsf.attention_map(turned), dsf.attention_map(system).flip(0, 1))
    assert_close(dsf.respond(reverse(turned), signal), dsf.respond(system, signal))


def test_sums_and_explicit_maps_turn_as_well():
    drawer = Drawer(27, complex=True)
    two = both_ways(drawer, drawer.system("dense", steps=STEPS))
    shown = ExplicitMap(StoredRows(drawer.tensor(STEPS, 4)))
    for operator in (two, shown):
        map = dsf.attention_map(operator)
        assert_close(dsf.attention_map(adjoint(operator)), map.mT)
        assert_close(dsf.attention_map(adjoint(operator, conjugate=True)), map.mH)
        assert_close(dsf.attention_map(reverse(operator)), map.flip(0, 1))


def test_lazy_parts_stay_lazy_when_turned():
    system = sampled()
    for turned in (reverse(system), adjoint(system), adjoint(reverse(system))):
        assert type(turned.A) is SampledDiagonal
    assert reverse(system).B.write.stride(0) == 0
    assert adjoint(system).C.of.write.stride(0) == 0
    assert_close(dsf.attention_map(adjoint(system)), dsf.attention_map(system).mT)
    assert_close(
        dsf.attention_map(adjoint(reverse(system))), dsf.attention_map(system).flip(-2, -1).mT
    )
    again = adjoint(adjoint(system))
    assert isinstance(again.B, SampledWrite)
    assert_close(dsf.attention_map(again), dsf.attention_map(system))


@pytest.mark.parametrize("initial", [False, True])
def test_attention_turned(initial):
    system = attention(3, initial=initial)
    map = dsf.attention_map(system)
    assert_close(dsf.attention_map(adjoint(system)), map.mT)
    assert_close(dsf.attention_map(reverse(system)), map.flip(0, 1))
    signal = Drawer(28).tensor(STEPS, 1, 2)
    assert_close(dsf.respond(reverse(system), signal.flip(0)).flip(0), dsf.respond(system, signal))
