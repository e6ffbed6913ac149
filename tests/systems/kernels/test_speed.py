"""Compiled loops keep the speed of vectors, and their exponentials every digit and every end.

Times are those of one thread at work, the shortest of several, beside the same amount of work in
torch: a busy machine hardly shows in their ratio. Limits leave room for other processors.
"""

import time

import numpy as np
import pytest
import torch

from tests.drawn import Drawer


def shortest(work, turns=1):
    """Of the thread at work, in seconds, after one turn that may compile."""
    work()
    taken = []
    for _ in range(9):
        begun = time.thread_time()
        for _ in range(turns):
            work()
        taken.append((time.thread_time() - begun) / turns)
    return min(taken)


@pytest.mark.usefixtures("one_thread")
def test_the_scan_takes_exponentials_by_the_vector():
    """One after the other they take two to four times as long."""
    from dsf.systems.kernels.recurrences import selective_scan

    steps, channels, states = 4096, 256, 16  # the checks of these tests take a millisecond
    drawer = Drawer(2, dtype=torch.float32)
    parts = (
        drawer.real(steps, channels, low=0.001, high=0.1),
        drawer.tensor(steps, channels),
        -drawer.real(channels, states, low=0.5, high=8.0),
        drawer.tensor(steps, states),
        drawer.tensor(steps, states),
        drawer.tensor(channels),
    )
    start = torch.zeros(channels, states)
    into = torch.empty(steps, channels), torch.empty(channels, states)
    exponents, out = -torch.rand(4096), torch.empty(4096)
    of_torch = shortest(lambda: torch.exp(exponents, out=out), turns=64) / len(exponents)
    ours = shortest(lambda: selective_scan(*parts, start, into=into)) / (steps * channels * states)
    assert ours < 0.8 * of_torch


@pytest.mark.usefixtures("one_thread")
def test_small_products_keep_their_sums_in_registers():
    """Where an index might wrap around, loops go number by number: eight times slower and more."""
    from dsf.systems.kernels.memories import TILE, add_product

    large = torch.ones(256, 256)
    of_torch = shortest(lambda: large @ large, turns=4) / 256**3
    rows, inner = 32, 128
    left, right, out = (np.ones(size, "f") for size in (rows * inner, inner * TILE, rows * TILE))
    ours = shortest(lambda: add_product(left, right, rows, inner, out), turns=50)
    assert ours / (rows * inner * TILE) < 3 * of_torch


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_rows_of_maps_are_products_at_full_speed(dtype):
    """Of 16 states, with every sum in a register from first to last."""
    import numba

    from dsf.systems.kernels.diagonal_rows import TILE, multiply
    from dsf.systems.kernels.registers import pointers

    @numba.njit
    def tiles(left, right, out, turns):
        for _ in range(turns):
            place = pointers(left), 0, 16, 16, pointers(right), 0
            multiply(*place, TILE, TILE, pointers(out), 0, TILE)

    left, right, out = (np.ones(size, dtype) for size in (TILE * 16, 16 * TILE, TILE * TILE))
    large = torch.ones(256, 256, dtype=torch.from_numpy(out).dtype)
    of_torch = shortest(lambda: large @ large, turns=4) / 256**3
    ours = shortest(lambda: tiles(left, right, out, 1000)) / (1000 * 16 * TILE * TILE)
    assert (out == 16).all()
    assert ours < 2.5 * of_torch


def test_powers_of_two_at_the_ends_of_their_range():
    """Zero far below, infinite far above, nan stays nan; seven or sixteen digits between."""
    import numba

    from dsf.systems.kernels.registers import factor_of, power_of_two

    @numba.njit
    def powers(exponents, single, double):
        for i in range(len(exponents)):
            slow, factor = factor_of(np.float32(exponents[i]))
            single[i] = factor + 1.0 if slow else factor
            double[i] = power_of_two(exponents[i])

    ends = [-np.inf, -1e30, -1e5, -1024.0, 1025.0, 1e30, np.inf, np.nan, 0.0, -126.0, -1022.0]
    exponents = np.concatenate([ends, np.linspace(-120, 120, 4001).astype("f")])
    single, double = np.zeros(len(exponents), "f"), np.zeros(len(exponents))
    powers(exponents, single, double)
    assert single[:8].tolist()[:7] == double[:8].tolist()[:7] == [0.0] * 4 + [np.inf] * 3
    assert np.isnan([single[7], double[7]]).all()
    assert single[8] == double[8] == 1
    np.testing.assert_allclose(single[9:], np.exp2(exponents[9:]).astype("f"), rtol=2e-7)
    np.testing.assert_allclose(double[9:], np.exp2(exponents[9:]), rtol=1e-15)
