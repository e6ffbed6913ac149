"""What the state holds: loops over tokens in NumPy, for every mixer, and answers known by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dsf
from dsf import measures
from dsf.runtime.shapes import ShapeError
from dsf.systems.coefficient import TokenSlots, dense_of
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

NOISE = 1e-3


def arrays(system):
    """A, B, C in the order of the recurrence, with all batch axes in one."""
    order = slice(None, None, -1 if system.runs_backward else 1)
    parts = (system.A.dense(), dense_of(system.B), dense_of(system.C))
    found = [part.reshape(-1, *part.shape[-3:]).numpy(force=True)[:, order] for part in parts]
    return [part.astype(np.result_type(part.dtype, np.float64)) for part in found]


def left_by(A, B, write, token):
    """What the token ``write`` left in the state after ``token``, step by step."""
    left = B[write]
    for t in range(write + 1, token + 1):
        left = A[t] @ left
    return left


def literal_forgetting(A, B, lags, writes=None):
    found = []
    for lag in lags:
        shares = []
        for write in range(len(A) - lag) if writes is None else writes:
            if write + lag < len(A) and np.linalg.norm(B[write]) > 0:
                left = np.linalg.norm(left_by(A, B, write, write + lag))
                shares.append(left / np.linalg.norm(B[write]))
        found.append(np.mean(shares) if shares else np.nan)
    return found


def as_real(matrix):
    """The real map from real signals to real and imaginary parts of the state."""
    return np.concatenate([matrix.real, matrix.imag]) if np.iscomplexobj(matrix) else matrix


def literal_readable(A, B, last, *, real):
    """By ridge regression, solved for the signals and not for the states."""
    parts = [left_by(A, B, write, last) for write in range(last + 1)]
    if real:
        parts = [as_real(part) for part in parts]
    whole = np.concatenate(parts, axis=1)
    floor = NOISE**2 * np.linalg.norm(whole, ord=2) ** 2
    ports = B.shape[-1]

    def share(matrix):
        gram = matrix.conj().T @ matrix
        return np.diag(np.linalg.solve(gram + floor * np.eye(len(gram)), gram)).real

    together = share(whole).reshape(-1, ports).mean(axis=1)
    alone = np.array([share(part).mean() for part in parts])
    return together, alone


@pytest.fixture
def recurrent(mixer):
    system, signal = mixer.system(), mixer.signal()
    if not isinstance(system, System):
        pytest.skip("has no state")
    return system, signal


def test_forgetting_is_that_of_a_loop(recurrent):
    system, _ = recurrent
    lags = [0, 1, 3, 8]
    found = measures.forgetting(system, lags=lags).reshape(-1, len(lags))
    A, B, _ = arrays(system)
    expected = [literal_forgetting(*pair, lags) for pair in zip(A, B, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("last", [-1, 4])
def test_what_can_be_read_is_that_of_a_regression(recurrent, last):
    system, _ = recurrent
    step = last % system.steps
    step = system.steps - 1 - step if system.runs_backward else step
    A, B, _ = arrays(system)
    kept = measures.retained(system, at=last, noise=NOISE).reshape(len(A), -1)
    lost = measures.interference(system, at=last, noise=NOISE).reshape(len(A), -1)
    if system.runs_backward:
        kept, lost = kept.flip(-1), lost.flip(-1)
    for k, pair in enumerate(zip(A, B, strict=True)):
        together, alone = literal_readable(*pair, step, real=system.takes_real_part)
        np.testing.assert_allclose(kept[k, : step + 1].numpy(), together, rtol=1e-6, atol=1e-9)
        taken = (alone - together).clip(min=0)
        np.testing.assert_allclose(lost[k, : step + 1].numpy(), taken, rtol=1e-6, atol=1e-8)
        assert not kept[k, step + 1 :].any()
    assert (kept >= 0).all()
    assert (kept.sum(dim=-1) * system.input_size <= system.state_size * 2 + 1e-9).all()


def test_occupancy_is_that_of_the_blocks_of_the_map(recurrent):
    system, _ = recurrent
    if system.runs_backward:
        with pytest.raises(ValueError, match="backward"):
            measures.occupancy(system)
        return
    map, positions = dsf.attention_map(system), [0, 3, 7]
    found = measures.occupancy(system, positions=positions).reshape(-1, 3)
    rows, columns = system.output_size, system.input_size
    for k, one in enumerate(map.reshape(-1, *map.shape[-2:]).numpy()):
        for place, t in enumerate(positions):
            block = one[(t + 1) * rows :, : (t + 1) * columns]
            sizes = np.linalg.svd(block, compute_uv=False)
            is_cache = isinstance(system.B, TokenSlots)
            available = min(block.shape) if is_cache else system.state_size
            expected = sizes.sum() ** 2 / (sizes**2).sum() / available if sizes[0] else np.nan
            assert found[k, place].item() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_the_norm_of_the_state_is_that_of_a_loop(recurrent):
    system, signal = recurrent
    rng = torch.Generator().manual_seed(1)
    shape = (*system.batch, system.state_size, signal.shape[-1])
    initial = torch.randn(shape, generator=rng, dtype=torch.float64).to(system.dtype)
    for each in (system, replace(system, initial=initial)):
        A, B, _ = arrays(each)
        order = slice(None, None, -1 if each.runs_backward else 1)
        given = signal.reshape(-1, *signal.shape[-3:]).numpy()[:, order]
        found = measures.state_norm(each, signal).reshape(len(A), -1).numpy()[:, order]
        for k in range(len(A)):
            state = np.zeros(shape[-2:])
            if each.initial is not None:
                state = each.initial.reshape(-1, *shape[-2:])[k].numpy()
            for t in range(each.steps):
                state = A[k, t] @ state + B[k, t] @ given[k, t]
                assert found[k, t] == pytest.approx(np.linalg.norm(state), rel=1e-9)


def one_state(decay, steps=9):
    one = torch.ones(steps, 1, dtype=torch.float64)
    return System.from_write_and_read(dsf.systems.transition.Diagonal(one * decay), one, one)


def test_a_sum_forgets_nothing_and_is_full():
    """One state without decay: every token is there whole, and none can be told from the others."""
    system = one_state(1.0)
    assert measures.forgetting(system).tolist() == [1.0] * 4
    kept, taken = (
        measure(system, noise=1e-6) for measure in (measures.retained, measures.interference)
    )
    torch.testing.assert_close(kept, torch.full((9,), 1 / 9, dtype=torch.float64))
    torch.testing.assert_close(taken, torch.full((9,), 8 / 9, dtype=torch.float64))
    assert measures.occupancy(system).tolist() == pytest.approx([1.0] * 8)


def test_a_delay_line_of_its_own_for_every_token_loses_none():
    eye = torch.eye(9, dtype=torch.float64)
    still = dsf.systems.transition.Diagonal(torch.ones(9, 9, dtype=torch.float64))
    system = System.from_write_and_read(still, eye, torch.ones(9, 9, dtype=torch.float64))
    torch.testing.assert_close(measures.retained(system, noise=1e-6), torch.ones(9).double())
    assert measures.interference(system, noise=1e-6).abs().max() < 1e-9
    assert measures.occupancy(system, positions=[4]).item() == pytest.approx(1 / 9)


def test_a_fast_decay_loses_by_decay():
    system = one_state(1e-4)
    kept, taken = measures.retained(system), measures.interference(system)
    assert kept[-1] > 0.99
    assert (1 - kept - taken)[:-2].min() > 0.99
    assert measures.forgetting(system, lags=[1]).item() == pytest.approx(1e-4)


def test_writes_of_zero_are_left_out_of_the_mean():
    write = torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
    decay = dsf.systems.transition.Diagonal(
        torch.tensor([[0.5], [0.5], [0.25]], dtype=torch.float64)
    )
    system = System.from_write_and_read(decay, write, torch.ones(3, 1, dtype=torch.float64))
    assert measures.forgetting(system, lags=[0, 1, 2]).tolist() == [1.0, 0.5, 0.125]
    silent = replace(system, B=torch.zeros_like(system.B))
    assert measures.forgetting(silent, lags=[1]).isnan().all()


def test_long_sequences_cross_the_borders_of_windows():
    rng = torch.Generator().manual_seed(0)
    decay, write, read = torch.rand(3, 150, 2, generator=rng, dtype=torch.float64)
    system = System.from_write_and_read(dsf.systems.transition.Diagonal(decay), write, read)
    signal = torch.randn(150, 1, 3, generator=rng, dtype=torch.float64)
    states = system.states(signal)
    torch.testing.assert_close(measures.state_norm(system, signal), states.norm(dim=(-2, -1)))
    A, B, _ = arrays(system)
    found = measures.forgetting(system, lags=[1, 70])
    writes = [round(k * 149 / 31) for k in range(32)]
    np.testing.assert_allclose(found, literal_forgetting(A[0], B[0], [1, 70], writes), rtol=1e-9)


@pytest.mark.usefixtures("our_own_errors")
def test_wrong_arguments_are_refused_in_words():
    system = one_state(0.5)
    with pytest.raises(ValueError, match="'lags'"):
        measures.forgetting(system, lags=[9])
    for measure in (measures.retained, measures.interference):
        with pytest.raises(ValueError, match="'noise'"):
            measure(system, noise=0.0)
        with pytest.raises(IndexError, match="'at' from 0 to 8, got 9"):
            measure(system, at=9)
    with pytest.raises(ShapeError, match="time"):
        measures.state_norm(system, torch.ones(8, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("share", [-0.5, -0.3, 0.3, 0.6])
def test_shares_do_not_depend_on_the_scale(dtype, share):
    """The squares of the written numbers leave the range of their type."""
    largest = torch.finfo(dtype).max
    scale = largest**share if share > 0 else torch.finfo(dtype).tiny ** -share
    one = torch.ones(9, 1, dtype=dtype)
    plain, scaled = (
        dsf.System.from_write_and_read(Diagonal(one / 2), one * factor, one)
        for factor in (1.0, scale)
    )
    for measure in (measures.retained, measures.interference, measures.forgetting):
        torch.testing.assert_close(measure(scaled), measure(plain))


def test_a_share_that_is_not_known_is_not_hidden():
    decay = torch.full((9, 1), 0.5, dtype=torch.float64)
    decay[4] = torch.nan
    one = torch.ones(9, 1, dtype=torch.float64)
    system = dsf.System.from_write_and_read(Diagonal(decay), one, one)
    assert measures.forgetting(system, lags=[1, 2]).isnan().all()
