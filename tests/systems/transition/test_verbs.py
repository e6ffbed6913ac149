"""Every verb of every structure is the verb of the matrices written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dsf.systems.transition import Dense, Diagonal, ScaledIdentity, Shift
from tests.drawn import STRUCTURES, Drawer, written

DIAGONAL = ("scaled_identity", "diagonal", "sampled_diagonal")
structures = pytest.mark.parametrize("structure", STRUCTURES)

sizes = {
    "batch": st.sampled_from([(), (2,), (2, 3)]),
    "steps": st.integers(1, 6),
    "states": st.integers(1, 4),
    "complex": st.booleans(),
    "single": st.booleans(),
    "seed": st.integers(0, 1000),
}


def draw(structure, *, complex, single, seed, **shape):
    dtype = torch.float32 if single else torch.float64
    drawer = Drawer(seed, complex=complex, dtype=dtype)
    return drawer, drawer.transition(structure, **shape)


@structures
@pytest.mark.parametrize("complex", [False, True])
def test_dense_is_the_formula_of_the_structure(structure, complex):
    A = Drawer(1, complex=complex).transition(structure)
    assert_close(A.dense(), torch.from_numpy(written(A)).to(A.dtype))


@structures
@given(**sizes)
def test_shape_and_kind(structure, **given):
    _, A = draw(structure, **given)
    dense = A.dense()
    assert (A.shape, A.dtype, A.device) == (dense.shape, dense.dtype, dense.device)
    assert (*A.batch, A.steps, A.state_size) == A.shape[:-1]


@structures
@given(**sizes, channel=st.integers(1, 3))
def test_product_with_a_state(structure, channel, **given):
    drawer, A = draw(structure, **given)
    state = drawer.tensor(*A.shape[:-1], channel)
    assert_close(A @ state, A.dense() @ state)


@structures
@given(**sizes, other=st.sampled_from(STRUCTURES))
def test_composition_with_any_structure(structure, other, **given):
    drawer, A = draw(structure, **given)
    earlier = drawer.transition(other, batch=A.batch, steps=A.steps, states=A.state_size)
    assert_close(A.compose(earlier).dense(), A.dense() @ earlier.dense())


@structures
@given(**sizes, data=st.data())
def test_windows(structure, data, **given):
    _, A = draw(structure, **given)
    start = data.draw(st.integers(0, A.steps - 1))
    stop = data.draw(st.integers(start + 1, A.steps))
    wanted = A.dense()[..., start:stop, :, :]
    assert_close(A.window(start, stop).dense(), wanted)
    assert_close(A.cut(start, stop).dense(), wanted)


@structures
@given(**sizes, lag=st.integers(0, 8))
def test_delay_puts_identities_in_front(structure, lag, **given):
    _, A = draw(structure, **given)
    dense, kept = A.dense(), max(A.steps - lag, 0)
    front = torch.eye(A.state_size, dtype=A.dtype).expand(*A.batch, A.steps - kept, -1, -1)
    wanted = torch.cat([front, dense[..., :kept, :, :]], dim=-3)
    assert_close(A.delayed(lag).dense(), wanted)


@structures
@given(**sizes)
def test_flip_and_transpose(structure, **given):
    _, A = draw(structure, **given)
    assert_close(A.flipped().dense(), A.dense().flip(-3))
    assert_close(A.transposed().dense(), A.dense().mT)


@structures
@given(**sizes)
def test_diagonal_is_said_only_of_diagonals(structure, **given):
    _, A = draw(structure, **given)
    decay = A.diagonal()
    assert (decay is None) == (structure not in DIAGONAL)
    if decay is not None:
        assert_close(torch.diag_embed(decay), A.dense())


@structures
def test_constancy_is_seen_in_values_and_in_strides(structure):
    moving = Drawer(2).transition(structure, steps=4)
    assert moving.is_constant == (structure == "shift")
    still = moving.window(1, 2)
    assert still.is_constant
    twice = type(still)(**{name: widened(part) for name, part in vars(still).items()})
    assert twice.steps == 4
    assert twice.is_constant


def widened(part):
    """A stored tensor of one token repeated over four."""
    if not isinstance(part, torch.Tensor) or 1 not in part.shape:
        return part
    return part.repeat_interleave(4, dim=part.shape.index(1))


def test_diagonals_stay_diagonal_under_composition():
    drawer = Drawer(3)
    names = ("scaled_identity", "diagonal", "sampled_diagonal")
    for late in names:
        for early in names:
            both = drawer.transition(late).compose(drawer.transition(early))
            kind = ScaledIdentity if late == early == "scaled_identity" else Diagonal
            assert type(both) is kind


def test_shifts_in_one_direction_stay_shifts_and_others_lose_what_fell_off():
    forward = Drawer(4).transition("shift", steps=2, states=3)
    assert type(forward.compose(forward)) is Shift
    assert type(forward.transposed().compose(forward.transposed())) is Shift
    back = forward.transposed().compose(forward)
    assert type(back) is Dense
    np.testing.assert_array_equal(back.dense()[0].numpy(), np.diag([1.0, 1.0, 0.0]))


@structures
@pytest.mark.parametrize("complex", [False, True])
def test_a_number_type_is_a_precision_and_keeps_the_imaginary_part(structure, complex):
    A = Drawer(5, complex=complex).transition(structure)
    single = A.to(dtype=torch.float32)
    assert single.dtype == (torch.complex64 if complex else torch.float32)
    assert type(single) is type(A)
    assert_close(single.dense().to(A.dtype), A.dense(), rtol=1e-6, atol=1e-6)
    assert A.to(dtype=torch.complex128).dtype == torch.complex128


@structures
@pytest.mark.parametrize(
    "index", [1, -1, slice(1, 3), (0, 1), (slice(None), 0), torch.tensor([2, 0])]
)
def test_picking_batch_entries(structure, index):
    A = Drawer(6).transition(structure, batch=(3, 2))
    wanted = A.dense()[index]
    assert_close(A.picked(index, wanted.shape[:-3]).dense(), wanted)
