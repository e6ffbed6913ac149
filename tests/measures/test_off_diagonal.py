"""The energy of a map off its diagonal, against a literal loop over its weights."""

import pytest
import torch

import dsf
from dsf import measures
from dsf.evaluate.maps import row_blocks
from dsf.measures import norms as off_diagonal
from dsf.systems.algebra import adjoint
from dsf.systems.kernels import recurrences as state_energies


def literally(system, steps):
    """The square of every weight whose query and key differ, one weight at a time."""
    map = dsf.attention_map(system).flatten(0, -3)
    ports = map.shape[-1] // steps
    found = []
    for each in map:
        energy = 0.0
        for row in range(map.shape[-2]):
            for column in range(map.shape[-1]):
                if row // (map.shape[-2] // steps) != column // ports:
                    energy += abs(each[row, column].item()) ** 2
        found.append(energy)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.sampled("cls")
@pytest.mark.parametrize("cls", dsf.mixers.ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("turn", [lambda system: system, adjoint], ids=["forward", "adjoint"])
def test_the_energy_is_that_of_every_weight(cls, turn, monkeypatch):
    monkeypatch.setattr(off_diagonal, "TOKENS", 4)
    mixer = cls.draw(torch.Generator().manual_seed(0), steps=9)
    system = mixer.system()
    if not isinstance(system, dsf.System):
        turn = lambda system: system  # noqa: E731
    system = turn(system)
    found = measures.off_diagonal_energy(system)
    expected = literally(system, 9)
    assert expected.max() > 0
    torch.testing.assert_close(found.double().flatten(), expected, rtol=1e-9, atol=1e-12)


def test_few_states_need_no_rows(monkeypatch):
    """Of a state space model no row of the map is formed."""
    monkeypatch.setattr("dsf.systems.kernels.WORTH", 0)
    monkeypatch.setattr("dsf.measures.fold.row_blocks", lambda *_, **__: pytest.fail("a row"))
    rng = torch.Generator().manual_seed(0)
    system = dsf.mixers.SelectiveStateSpace.draw(rng, steps=9).system()
    by_rows = sum(
        (rows.weights.square() * (rows.lag != 0)).sum(dim=(-2, -1)) for rows in row_blocks(system)
    )
    torch.testing.assert_close(measures.off_diagonal_energy(system), by_rows)


def test_of_complex_states():
    mixer = dsf.mixers.S5.draw(torch.Generator().manual_seed(0), steps=9)
    system = dsf.systems.algebra.with_conjugates(mixer.system())
    assert system.dtype.is_complex
    found = measures.off_diagonal_energy(system)
    torch.testing.assert_close(found.flatten(), literally(system, 9), rtol=1e-9, atol=1e-12)


REAL = [
    "SelectiveStateSpace",
    "RWKV4",
    "RWKV6",
    "StateSpaceDuality",
    "GatedLinearAttention",
    "HGRN",
]


@pytest.mark.sampled("name")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", REAL)
def test_a_compiled_loop_says_the_same(name, dtype, monkeypatch):
    """For real states that are read before or after their update, in windows of four tokens."""
    used, add = [], state_energies.add_energies
    monkeypatch.setattr(off_diagonal, "TOKENS", 4)
    monkeypatch.setattr(
        state_energies, "add_energies", lambda *parts, **into: used.append(add(*parts, **into))
    )
    mixer = getattr(dsf.mixers, name).draw(torch.Generator().manual_seed(0), steps=19)
    system = dsf.systems.algebra.converted(mixer.system(), dtype=dtype)
    plain = measures.off_diagonal_energy(system)
    assert not used
    monkeypatch.setattr("dsf.systems.kernels.WORTH", 0)
    found = measures.off_diagonal_energy(system)
    assert len(used) == 5
    assert found.dtype == plain.dtype
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(found.double().flatten(), literally(system, 19), rtol=1e-4, atol=0)
