"""Other states, the same map."""

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import final_state
from dsf.runtime.shapes import ShapeError
from dsf.systems.algebra import change_of_basis, with_conjugates
from tests.drawn import STRUCTURES, Drawer

STEPS = 6
ours = pytest.mark.usefixtures("our_own_errors")
structures = pytest.mark.parametrize("structure", STRUCTURES)
befores = pytest.mark.parametrize("before", [False, True])
backwards = pytest.mark.parametrize("backward", [False, True])


@pytest.mark.sampled("structure", count=2)
@structures
@befores
@backwards
@pytest.mark.parametrize("varying", [False, True])
def test_a_change_of_basis_changes_no_response(structure, before, backward, varying):
    drawer = Drawer(17, complex=True)
    system = drawer.system(
        structure,
        batch=(2,),
        steps=STEPS,
        ports=(2, 3),
        initial=4,
        reads_before_update=before,
        runs_backward=backward,
    )
    places = (STEPS + 1,) if varying else ()
    T = torch.eye(3) * 2 + drawer.tensor(2, *places, 3, 3) / 2
    other = change_of_basis(system, T)
    signal = drawer.tensor(2, STEPS, 2, 4)
    assert_close(dsf.respond(other, signal), dsf.respond(system, signal))
    assert_close(dsf.attention_map(other), dsf.attention_map(system))
    last = T[:, 0 if backward else -1] if varying else T
    assert_close(final_state(other, signal), last @ final_state(system, signal))


def test_a_complex_basis_of_a_real_system():
    drawer = Drawer(18)
    system = drawer.system("dense", steps=STEPS)
    T = Drawer(19, complex=True).tensor(3, 3) + 2 * torch.eye(3)
    map = dsf.attention_map(change_of_basis(system, T))
    assert_close(map, dsf.attention_map(system).to(torch.complex128))


@ours
def test_a_basis_must_fit_and_be_one():
    system = Drawer(20).system("diagonal", batch=(2,), steps=4)
    with pytest.raises(ShapeError, match=r"\(2, 3, 3\)"):
        change_of_basis(system, torch.eye(3, dtype=torch.float64))
    flat = torch.ones(2, 3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="invertible"):
        change_of_basis(system, flat)


@structures
@befores
@backwards
def test_conjugate_states_say_the_real_part_without_taking_it(structure, before, backward):
    system = Drawer(21, complex=True).system(
        structure,
        steps=STEPS,
        ports=(2, 3),
        initial=4,
        takes_real_part=True,
        reads_before_update=before,
        runs_backward=backward,
    )
    signal = Drawer(22).tensor(STEPS, 2, 4)
    plain = with_conjugates(system)
    response = dsf.respond(plain, signal)
    assert not plain.takes_real_part
    assert plain.state_size == 6
    assert_close(
        response, torch.complex(dsf.respond(system, signal), torch.zeros(STEPS, 3, 4).double())
    )
    assert_close(dsf.attention_map(plain).real, dsf.attention_map(system))


@ours
def test_conjugates_of_what_takes_no_real_part():
    with pytest.raises(ValueError, match="real part"):
        with_conjugates(Drawer(23).system("diagonal"))
