"""Numerical ranks without a decomposition: matrices whose singular values are prescribed."""

import numpy as np
import pytest
import torch

from dsf.measures import hankel as module
from dsf.measures.hankel import numerical_ranks

TOLERANCE, SIZE = 1e-10, 400


def prescribed(values, rows=None, columns=None, seed=0):
    """A matrix with these singular values, between two random orthogonal matrices of numpy."""
    rng, size = np.random.default_rng(seed), len(values)
    left = np.linalg.qr(rng.standard_normal((rows or size, size)))[0]
    right = np.linalg.qr(rng.standard_normal((columns or size, size)))[0]
    return torch.from_numpy(left * np.asarray(values) @ right.T)


def falling(*last, size=SIZE):
    """From 1 down to 1e-6, and then the values given as multiples of the threshold."""
    return [*np.geomspace(1, 1e-6, size - len(last)), *(TOLERANCE * each for each in last)]


SPECTRA = {
    "all alike": [1.0] * SIZE,
    "one large, the others alike": [1.0] + [2e-10] * (SIZE - 1),
    "one large, some lost": [1.0] + [1.5e-10] * (SIZE - 4) + [0.7e-10] * 3,
    "just above": falling(1.2),
    "just below": falling(0.8),
    "five near and five lost": falling(*[1.5] * 5, *[0.8] * 5),
    "ten lost": falling(*np.geomspace(0.8, 0.05, 11)),
    "spread around the threshold": falling(*np.geomspace(200, 0.05, 14)),
}


@pytest.fixture
def decompositions(monkeypatch):
    """The sizes of matrices that were decomposed."""
    found, whole = [], torch.linalg.svdvals
    monkeypatch.setattr(
        torch.linalg, "svdvals", lambda part: found.append(part.shape) or whole(part)
    )
    return found


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
def test_the_rank_is_that_of_the_prescribed_values(values):
    expected = sum(value > TOLERANCE for value in values)
    assert numerical_ranks(prescribed(values), TOLERANCE) == expected


@pytest.mark.parametrize("shape", [(SIZE, SIZE + 1), (SIZE + 40, SIZE)], ids=["wide", "tall"])
@pytest.mark.parametrize("lost", [0, 3])
def test_rectangular_matrices(shape, lost, decompositions):
    matrix = prescribed(falling(*[0.5] * lost), *shape)
    assert numerical_ranks(matrix, TOLERANCE) == SIZE - lost
    assert bool(decompositions) == bool(lost)


OPEN = {
    "half of them lost": falling(*[0.1] * (SIZE // 2)),
    "one far below": falling(1e-5),
    "at the threshold": falling(1.0005, 0.9995),
    "singular to rounding": falling(1e-8),
    "of zeros": [0.0] * SIZE,
    "a block of zeros": [1.0] * 8 + [0.0] * (SIZE - 8),
}


@pytest.mark.parametrize("values", OPEN.values(), ids=OPEN)
def test_what_stays_open_is_decomposed(values, decompositions):
    expected = sum(value > TOLERANCE for value in values)
    assert numerical_ranks(prescribed(values), TOLERANCE) == expected
    assert len(decompositions) == 1


def test_single_precision_is_decomposed(decompositions):
    matrix = prescribed(np.geomspace(1, 1e-2, SIZE)).float()
    assert numerical_ranks(matrix, TOLERANCE) == SIZE
    assert decompositions


def test_an_inverse_that_leaves_the_range_is_decomposed(decompositions):
    matrix = torch.eye(SIZE, dtype=torch.float64)
    matrix[-1, -1] = 1e-308
    assert numerical_ranks(matrix, TOLERANCE) == SIZE - 1
    assert decompositions


def test_several_matrices_are_factorised_at_once_and_come_out_as_they_do_alone(monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 3 * SIZE**2)
    stack = torch.stack(
        [prescribed(falling(*each)) for each in ([1.2], [0.8], [0.5] * 3, [1.0005])]
    )
    found = module.numerical_ranks(stack.view(2, 2, SIZE, SIZE), TOLERANCE)
    assert found.tolist() == [[SIZE, SIZE - 1], [SIZE - 3, SIZE]]
    assert module.numerical_ranks(stack[:0], TOLERANCE).shape == (0,)


def test_normal_numbers_are_shorter_than_that_with_the_stated_probability():
    doubt, width = 1e-2, module.WIDTH
    shortest = module.SHORTEST * (doubt / module.DOUBT) ** (1 / width)
    drawn = np.random.default_rng(0).standard_normal((40000, width))
    share = float((np.linalg.norm(drawn, axis=1) < shortest).mean())
    assert 0.05 * doubt < share <= doubt


def test_full_rank_is_not_told_where_a_value_lies_below(monkeypatch):
    lost = prescribed(falling(0.9))
    monkeypatch.setattr(module, "SHORTEST", 1e9)  # so that the bound from random columns fails
    assert numerical_ranks(lost, TOLERANCE) == SIZE
    monkeypatch.undo()
    assert numerical_ranks(lost, TOLERANCE) == SIZE - 1
