"""The value: what it holds, what it says of itself, what it refuses."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.runtime.shapes import ShapeError
from dsf.systems.coefficient import SampledWrite, TokenSlots
from dsf.systems.composite import ExplicitMap, StoredRows, SystemSum
from dsf.systems.transition import Dense, Diagonal, SampledDiagonal
from tests.drawn import Drawer, attention, sampled

ours = pytest.mark.usefixtures("our_own_errors")


@pytest.fixture
def system():
    return Drawer(1).system("diagonal", batch=(2,), steps=4, states=3, ports=(5, 6), initial=7)


def test_sizes(system):
    sizes = (system.batch, system.steps, system.state_size, system.input_size, system.output_size)
    assert sizes == (torch.Size([2]), 4, 3, 5, 6)
    assert (system.dtype, system.device) == (torch.float64, torch.device("cpu"))


def test_a_system_is_a_value(system):
    with pytest.raises(FrozenInstanceError):
        system.A = None


@pytest.mark.parametrize("name", ["B", "C", "D", "initial"])
def test_the_number_type_holds_every_part(system, name):
    widened = replace(system, **{name: getattr(system, name).to(torch.complex128)})
    assert widened.dtype == torch.complex128
    single = dsf.systems.algebra.converted(system, dtype=torch.float32)
    mixed = replace(single, **{name: getattr(system, name)})
    assert mixed.dtype == torch.float64


def test_an_absent_feedthrough_is_zero_and_takes_no_room():
    drawer = Drawer(2)
    system = dsf.System(
        drawer.transition("dense", batch=(2,)), drawer.tensor(2, 5, 3, 1), drawer.tensor(2, 5, 4, 3)
    )
    assert system.feedthrough.shape == (2, 5, 4, 1)
    assert system.feedthrough.untyped_storage().nbytes() == 8
    assert not system.feedthrough.any()


def test_write_and_read_are_a_column_and_a_row():
    drawer = Drawer(3)
    A, write, read = drawer.transition("dense"), drawer.tensor(5, 3), drawer.tensor(5, 3)
    factor = drawer.tensor(5)
    system = dsf.System.from_write_and_read(
        A, write, read, factor, reads_before_update=True, takes_real_part=True
    )
    assert_close(system.B[:, :, 0], write)
    assert_close(system.C[:, 0, :], read)
    assert_close(system.feedthrough.flatten(), factor)
    assert system.reads_before_update
    assert system.takes_real_part


def test_a_window_has_the_parts_of_its_tokens_and_no_initial_state(system):
    part = system.window(1, 3)
    for name in ("B", "C", "D"):
        assert_close(getattr(part, name), getattr(system, name)[:, 1:3])
    assert_close(part.A.dense(), system.A.dense()[:, 1:3])
    assert part.initial is None


def test_a_window_of_lazy_parts_is_written_out():
    for lazy in (sampled(), attention()):
        part = lazy.window(2, 5)
        assert isinstance(part.B, torch.Tensor)
        assert isinstance(part.C, torch.Tensor)
        assert not isinstance(part.A, SampledDiagonal)
        assert_close(part.B, lazy.B.dense()[..., 2:5, :, :])
        assert_close(part.A.dense(), lazy.A.dense()[..., 2:5, :, :])


@pytest.mark.parametrize("span", [(-1, 2), (2, 2), (3, 2), (0, 5)])
def test_a_window_outside_the_sequence(system, span):
    with pytest.raises(ValueError, match="start"):
        system.window(*span)


def test_what_a_system_says_of_itself(system):
    assert repr(system) == (
        "System(4 tokens, 3 states, 5 in, 6 out, batch (2,); A: Diagonal; float64 on cpu; "
        "initial state)"
    )
    turned = replace(
        Drawer(4, complex=True).system("low_rank"),
        runs_backward=True,
        reads_before_update=True,
        takes_real_part=True,
    )
    assert repr(turned) == (
        "System(5 tokens, 3 states, 1 in, 1 out; A: DiagonalPlusLowRank; complex128 on cpu; "
        "reads before update, takes real part, runs backward)"
    )
    shown = ExplicitMap(StoredRows(torch.ones(2, 4, 5)))
    assert repr(shown) == "ExplicitMap(4 tokens written, 5 read, batch (2,); StoredRows)"
    two = SystemSum((turned, replace(turned, runs_backward=False)))
    assert repr(two) == f"SystemSum({turned!r} + {two.parts[1]!r})"


PARTS = {
    "batch": ("B", (3, 4, 3, 5), "'batch'"),
    "time": ("C", (2, 9, 6, 3), "'time'"),
    "state of B": ("B", (2, 4, 8, 5), "'state'"),
    "state of C": ("C", (2, 4, 6, 8), "'state'"),
    "input": ("D", (2, 4, 6, 8), "'input'"),
    "output": ("D", (2, 4, 8, 5), "'output'"),
    "axes": ("B", (4, 3), "'B'"),
    "axes of D": ("D", (5,), "'D'"),
    "initial batch": ("initial", (3, 3, 7), "'batch'.*initial"),
    "initial state": ("initial", (2, 4, 7), "'state'.*initial"),
    "axes of initial": ("initial", (7,), "'initial'"),
}


@ours
@pytest.mark.parametrize(("name", "shape", "words"), PARTS.values(), ids=PARTS)
def test_sizes_that_do_not_agree(system, name, shape, words):
    with pytest.raises(ShapeError, match=f"^System: .*{words}"):
        replace(system, **{name: torch.ones(shape, dtype=torch.float64)})


@ours
def test_parts_of_the_wrong_kind(system):
    with pytest.raises(TypeError, match="A must"):
        replace(system, A=torch.ones(2, 4, 3, 3))
    for name in ("B", "C", "D", "initial"):
        with pytest.raises(TypeError, match=f"{name} must"):
            replace(system, **{name: [1.0]})
        whole = torch.ones_like(getattr(system, name)).long()
        with pytest.raises(TypeError, match=f"{name} has the number type"):
            replace(system, **{name: whole})
    with pytest.raises(TypeError, match="A has the number type"):
        dsf.System(Diagonal(torch.ones(2, 4, 3).long()), system.B, system.C)
    with pytest.raises(TypeError, match="B must"):
        replace(system, B=None)


@ours
def test_a_sequence_without_tokens():
    nothing = torch.ones(0, 2)
    with pytest.raises(ShapeError, match="at least one token"):
        dsf.System.from_write_and_read(Diagonal(nothing), nothing, nothing)
    with pytest.raises(ShapeError, match="at least one query"):
        ExplicitMap(StoredRows(torch.ones(0, 4)))
    with pytest.raises(ShapeError, match="at least one query"):
        ExplicitMap(StoredRows(torch.ones(4, 0)))


@ours
def test_parts_on_two_devices(system):
    for name in ("B", "C", "D", "initial"):
        with pytest.raises(ShapeError, match=f"{name} is on meta"):
            replace(system, **{name: getattr(system, name).to("meta")})


@ours
def test_sums_of_what_does_not_fit():
    drawer = Drawer(5)
    system = drawer.system("diagonal")
    with pytest.raises(ShapeError, match="'steps'"):
        SystemSum((system, drawer.system("diagonal", steps=4)))
    with pytest.raises(ShapeError, match="'input_size'"):
        SystemSum((system, drawer.system("diagonal", ports=(2, 1))))
    with pytest.raises(ValueError, match="at least one system"):
        SystemSum(())


def test_lazy_matrices_behave_like_tensors():
    step, write = torch.rand(2, 4), torch.rand(2, 4, 3)
    lazy = SampledWrite(step, write)
    dense = (step.unsqueeze(-1) * write).unsqueeze(-1)
    assert (lazy.shape, lazy.dtype, lazy.device) == (dense.shape, dense.dtype, dense.device)
    assert_close(lazy[1, 2:], dense[1, 2:])
    assert_close(lazy @ torch.ones(1, 2), dense @ torch.ones(1, 2))
    assert_close(torch.ones(1, 3) @ lazy, torch.ones(1, 3) @ dense)
    assert_close(torch.cat([lazy, dense], dim=0), torch.cat([dense, dense], dim=0))
    assert_close(torch.sum(input=lazy), dense.sum())


def test_token_slots_are_unit_columns():
    slots = TokenSlots.cache(torch.ones(()), batch=torch.Size([2]), steps=4)
    assert_close(slots.dense().squeeze(-1), torch.eye(4).expand(2, 4, 4))
    assert_close(slots.flipped().dense().squeeze(-1), torch.eye(4).flip(0).expand(2, 4, 4))
    assert_close(slots.cut(1, 3).dense(), slots.dense()[:, 1:3])


def test_dense_states_by_hand():
    """A rotation by a quarter: what is written into one state is read from the other."""
    turn = torch.tensor([[0.0, -1], [1, 0]]).expand(3, 2, 2)
    first, last = torch.tensor([1.0, 0]).expand(3, 2), torch.tensor([0, 1.0]).expand(3, 2)
    map = dsf.attention_map(dsf.System.from_write_and_read(Dense(turn), first, last))
    assert map.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
