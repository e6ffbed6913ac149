"""Windows of a sequence, entries of a batch, number types."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import final_state
from dsf.systems.algebra import adjoint, converted, select
from dsf.systems.coefficient import SampledWrite
from dsf.systems.composite import ExplicitMap, SoftmaxRows, StoredRows, SystemSum
from dsf.systems.transition import SampledDiagonal
from tests.drawn import STRUCTURES, Drawer, attention, both_ways, literal_response, sampled

STEPS = 6
ours = pytest.mark.usefixtures("our_own_errors")
structures = pytest.mark.parametrize("structure", STRUCTURES)
complexes = pytest.mark.parametrize("complex", [False, True])
befores = pytest.mark.parametrize("before", [False, True])
backwards = pytest.mark.parametrize("backward", [False, True])


@pytest.mark.sampled("structure", count=4)
@structures
@befores
@backwards
@pytest.mark.parametrize("token", [1, 3, STEPS - 1])
def test_a_cut_sequence_goes_on_where_it_stopped(structure, before, backward, token):
    drawer = Drawer(29)
    flags = {"reads_before_update": before, "runs_backward": backward}
    system = drawer.system(structure, steps=STEPS, ports=(2, 1), initial=3, **flags)
    signal = drawer.tensor(STEPS, 2, 3)
    front, back = system.cut(0, token), system.cut(token, STEPS)
    assert (front.steps, back.steps) == (token, STEPS - token)
    if backward:
        back = replace(back, initial=system.initial)
        front = replace(front, initial=final_state(back, signal[token:]))
    else:
        front = replace(front, initial=system.initial)
        back = replace(back, initial=final_state(front, signal[:token]))
    parts = dsf.respond(front, signal[:token]), dsf.respond(back, signal[token:])
    assert_close(torch.cat(parts), literal_response(system, signal)[0])


@pytest.mark.parametrize("system", [sampled(), attention(4)], ids=["sampled", "attention"])
def test_lazy_parts_are_cut(system):
    map = dsf.attention_map(system)
    front, back = system.cut(0, 2), system.cut(2, system.steps)
    assert type(back.A) is type(system.A)
    assert type(back.B) is type(system.B)
    assert_close(dsf.attention_map(front), map[..., :2, :2])
    assert_close(dsf.attention_map(back), map[..., 2:, 2:])


INDICES = [1, -1, slice(0, 2), (2, 1), (slice(None), 0), torch.tensor([2, 0])]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_selected_entries_have_their_own_maps(index):
    drawer = Drawer(33)
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    for structure in STRUCTURES:
        system = drawer.system(structure, batch=(3, 2), initial=2)
        for each in (index, mask):
            few = select(system, each)
            maps = dsf.attention_map(system)
            wanted = maps.movedim((-2, -1), (0, 1))[(slice(None), slice(None), *as_tuple(each))]
            assert_close(dsf.attention_map(few), wanted.movedim((0, 1), (-2, -1)))
            assert few.initial.shape[:-2] == few.batch


def as_tuple(index):
    return index if isinstance(index, tuple) else (index,)


def test_selection_from_lazy_parts_sums_and_maps():
    drawer = Drawer(34)
    channel = select(sampled(), 2)
    assert isinstance(channel.A, SampledDiagonal)
    assert isinstance(channel.B, SampledWrite)
    assert_close(dsf.attention_map(channel), dsf.attention_map(sampled())[2])
    turned = select(adjoint(sampled()), 2)
    assert_close(dsf.attention_map(turned), dsf.attention_map(sampled())[2].mT)
    query, key, sink = drawer.tensor(2, 3, 5, 4), drawer.tensor(2, 3, 5, 4), drawer.tensor(2, 3)
    shown = ExplicitMap(SoftmaxRows(query, key, scale=1.0, causal=False, sink=sink))
    assert_close(dsf.attention_map(select(shown, (1, 2))), dsf.attention_map(shown)[1, 2])
    parts = [drawer.system("dense", batch=(2,), runs_backward=way) for way in (False, True)]
    both = SystemSum(tuple(parts))
    assert_close(dsf.attention_map(select(both, 1)), dsf.attention_map(both)[1])


@ours
def test_selection_stays_among_the_batch_axes():
    system = Drawer(35).system("diagonal", batch=(3,))
    with pytest.raises(IndexError):
        select(system, 3)
    with pytest.raises(IndexError):
        select(system, (0, 0))
    with pytest.raises(TypeError, match="None"):
        select(system, None)


@structures
@complexes
def test_conversion_is_of_precision(structure, complex):
    drawer = Drawer(36, complex=complex)
    system = drawer.system(structure, initial=2)
    single = converted(system, dtype=torch.float32)
    assert single.dtype == (torch.complex64 if complex else torch.float32)
    assert single.initial.dtype == single.dtype
    signal = drawer.tensor(5, 1, 2)
    close = dsf.respond(single, signal.to(single.dtype)).to(system.dtype)
    assert_close(close, dsf.respond(system, signal), rtol=1e-5, atol=1e-5)
    assert converted(single, dtype=torch.float64).dtype == system.dtype
    assert converted(system, device="cpu").device == torch.device("cpu")


def test_conversion_of_lazy_parts_sums_and_maps():
    drawer = Drawer(37)
    shown = ExplicitMap(StoredRows(drawer.tensor(4, 5)))
    two = both_ways(drawer, drawer.system("dense", steps=STEPS))
    for operator in (sampled(), attention(5), adjoint(sampled()), shown, two):
        single = converted(operator, dtype=torch.float32)
        assert single.dtype == torch.float32
        assert_close(
            dsf.attention_map(single).double(), dsf.attention_map(operator), rtol=1e-5, atol=1e-6
        )
    assert isinstance(converted(attention(5), dtype=torch.float32).C, SoftmaxRows)


@ours
def test_a_number_type_that_is_no_precision():
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(ValueError, match="dtype"):
            converted(Drawer(38).system("dense"), dtype=dtype)
