"""Exact arithmetic on stored floats, with and without python-flint."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsf.certificates import injectivity as exact
from dsf.certificates.certificate import stored

matrices = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(-4, 4), min_size=width, max_size=width), min_size=1, max_size=7
    )
)


def rank(rows):
    """By fractions, as in a textbook."""
    work, found = [[Fraction(v) for v in row] for row in rows], 0
    for column in range(len(rows[0])):
        place = next((r for r in range(found, len(work)) if work[r][column]), None)
        if place is None:
            continue
        work[found], work[place] = work[place], work[found]
        for r in range(found + 1, len(work)):
            factor = work[r][column] / work[found][column]
            work[r] = [a - factor * b for a, b in zip(work[r], work[found], strict=True)]
        found += 1
    return found


@given(matrices)
def test_chosen_rows_are_the_first_independent_ones(rows):
    chosen = exact.independent_rows(rows, len(rows[0]))
    assert len(chosen) == rank(rows) == rank([rows[k] for k in chosen] or [[0]])
    for stop in range(1, len(rows) + 1):
        assert sum(k < stop for k in chosen) == rank(rows[:stop])


def test_null_vectors_are_the_same_without_flint(monkeypatch):
    pytest.importorskip("flint", reason="python-flint is not installed")
    rng = torch.Generator().manual_seed(0)
    key = torch.randn(12, 6, generator=rng, dtype=torch.float64)
    key[:, 4] = 2 * key[:, 1]
    rows = [stored(key).scaled(row, (1,))[0] for row in range(len(key))]
    fast = exact.null_vector(rows)
    monkeypatch.setattr(exact, "find_spec", lambda _: None)
    slow = exact.null_vector(rows)
    assert fast in (slow, [-part for part in slow])


@given(matrices)
def test_null_vectors_are_exact_and_found_when_they_exist(rows):
    found = exact.null_vector(rows)
    if rank(rows) == len(rows[0]):
        assert found is None
    else:
        assert any(found)
        assert all(sum(a * b for a, b in zip(row, found, strict=True)) == 0 for row in rows)


def test_floats_are_the_fractions_they_store():
    row = torch.tensor([0.1, -(2.0**-40), 3.0], dtype=torch.float32)
    assert stored(row).row(0) == [Fraction(float(value)) for value in row]
    assert stored(torch.tensor([0.5, 0.25])).scaled(0, (1,)) == ([2, 1, 4], 4)
    half = torch.tensor([1 / 3], dtype=torch.bfloat16)
    assert stored(half).row(0) == [Fraction(float(half[0]))]
