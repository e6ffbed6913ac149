"""Gramians, Hankel values, stability: against dense linear algebra and known systems."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

import dsf
from dsf import measures
from dsf.measures import hankel
from dsf.systems.transition import Dense, Diagonal
from tests.drawn import STRUCTURES, Drawer


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


def constant(A, B, C, steps):
    expand = lambda part: part.expand(steps, *part.shape)  # noqa: E731
    return dsf.System(Dense(expand(A)), expand(B), expand(C))


def stable(rng, states, inputs=2, outputs=2, radius=0.7):
    A = torch.randn(states, states, generator=rng, dtype=torch.float64)
    A = A * radius / torch.linalg.eigvals(A).abs().max()
    B = torch.randn(states, inputs, generator=rng, dtype=torch.float64)
    C = torch.randn(outputs, states, generator=rng, dtype=torch.float64)
    return A, B, C


def test_constant_gramians_solve_the_lyapunov_equations(rng):
    A, B, C = stable(rng, 4)
    system = constant(A, B, C, 150)
    reached = scipy.linalg.solve_discrete_lyapunov(A.numpy(), (B @ B.mT).numpy())
    seen = scipy.linalg.solve_discrete_lyapunov(A.mT.numpy(), (C.mT @ C).numpy())
    P = measures.controllability_gramians(system)[-1].numpy()
    # what is seen after token t: the state passes A once before the next read
    Q = measures.observability_gramians(system)[0].numpy()
    np.testing.assert_allclose(P, reached, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(Q, (A.mT.numpy() @ seen @ A.numpy()), rtol=1e-10, atol=1e-12)


def test_hankel_values_of_a_constant_system_are_the_control_theorists(rng):
    """sqrt(eig(P Q)) with scipy's Gramians, in the middle of a long sequence."""
    A, B, C = stable(rng, 3, radius=0.5)
    system = constant(A, B, C, 200)
    P = scipy.linalg.solve_discrete_lyapunov(A.numpy(), (B @ B.mT).numpy())
    Q = scipy.linalg.solve_discrete_lyapunov(A.mT.numpy(), (C.mT @ C).numpy())
    Q = A.mT.numpy() @ Q @ A.numpy()
    expected = np.sqrt(np.sort(np.linalg.eigvals(P @ Q).real)[::-1])
    found = measures.hankel_singular_values(system, positions=[100])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("gathered", [0, 100])
def test_hankel_values_do_not_depend_on_the_windows(structure, before, gathered, monkeypatch):
    """Windows that end before, at and after a position, and writes kept or made triangular."""
    monkeypatch.setattr(hankel, "WINDOW", 3)
    monkeypatch.setattr(hankel, "GATHERED", gathered)
    system = Drawer(5).system(structure, batch=(2,), steps=14, states=3)
    system = replace(system, reads_before_update=before)
    map = dsf.attention_map(system)
    outputs, inputs = system.output_size, system.input_size
    positions = [2, 0, 7, 12]
    found = measures.hankel_singular_values(system, positions=positions)
    for number, t in enumerate(positions):
        block = map[..., (t + 1) * outputs :, : (t + 1) * inputs].numpy()
        values = np.linalg.svd(block, compute_uv=False)
        count = min(found.shape[-1], values.shape[-1])
        np.testing.assert_allclose(found[:, number, :count], values[..., :count], atol=1e-12)
        assert not found[:, number, count:].any()
        np.testing.assert_allclose(values[..., count:], 0, atol=1e-12)


def test_hankel_values_of_a_long_system_hold_no_square_of_its_length(monkeypatch):
    largest = 0
    fold = hankel.fold

    def folded(*given):
        nonlocal largest
        panel = fold(*given)
        largest = max(largest, panel.local.numel(), panel.reach.numel(), panel.write.numel())
        return panel

    monkeypatch.setattr(hankel, "fold", folded)
    system = Drawer(1).system("diagonal", steps=20_000, states=4)
    measures.hankel_singular_values(system, positions=[9_999])
    assert 0 < largest <= 64 * 64 * system.output_size * system.input_size


def test_hankel_values_of_a_system_are_those_of_its_map(one_port_system):
    map = dsf.attention_map(one_port_system)
    positions = [0, map.shape[-1] // 2, map.shape[-1] - 2]
    ours = measures.hankel_singular_values(one_port_system, positions=positions)
    dense = measures.hankel_singular_values(map, positions=positions)
    width = min(ours.shape[-1], dense.shape[-1])
    scale = dense.max().item()
    torch.testing.assert_close(ours[..., :width], dense[..., :width], rtol=0, atol=1e-12 * scale)
    assert (ours[..., width:] < 1e-12 * scale).all()


def test_ranks_of_softmax_grow_to_the_middle(rng):
    steps = 20
    query, key = (torch.randn(steps, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    mixer = dsf.mixers.SoftmaxAttention(query=2 * query, key=2 * key, value=key)
    ranks = measures.hankel_ranks(mixer.system(), tolerance=1e-13)
    assert ranks.tolist() == [min(t + 1, steps - t - 1) for t in range(steps - 1)]


def test_gramian_and_factor_paths_agree(rng):
    decay = torch.rand(2, 30, 3, generator=rng, dtype=torch.float64)
    write, read = (torch.randn(2, 30, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    system = dsf.System.from_write_and_read(Diagonal(decay), write, read)
    P = measures.controllability_gramians(system)[:, :-1]
    Q = measures.observability_gramians(system)[:, :-1]
    values = torch.linalg.eigvals(P @ Q).real.clamp(min=0).sqrt().sort(descending=True).values
    torch.testing.assert_close(
        measures.hankel_singular_values(system), values, atol=1e-6, rtol=1e-6
    )


def test_forgetting_by_hand():
    decay = torch.full((10, 2), 0.5, dtype=torch.float64)
    decay[:, 1] = 0.25
    ones = torch.ones(10, 2, dtype=torch.float64)
    system = dsf.System.from_write_and_read(Diagonal(decay), ones, ones)
    assert measures.memory_horizon(system, level=0.3) == 2
    assert measures.memory_horizon(system, level=0.5**11) == 11
    torch.testing.assert_close(
        measures.product_norms(system), 0.5 ** torch.arange(1, 11, dtype=torch.float64)
    )
    expected = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    torch.testing.assert_close(measures.lyapunov_exponents(system), expected)
    assert measures.transition_eigenvalues(system).shape == (10, 2)


def test_small_eigenvalues_do_not_mean_forgetting():
    """Two nilpotent maps in turn: every spectrum is zero, the product grows."""
    up = torch.tensor([[0.0, 2], [0, 0]], dtype=torch.float64)
    A = torch.stack([up, up.mT] * 5)
    ones = torch.ones(10, 2, dtype=torch.float64)
    system = dsf.System.from_write_and_read(Dense(A), ones, ones)
    assert measures.transition_eigenvalues(system).abs().max() < 1e-12
    assert measures.product_norms(system)[-1] == 2.0**10


def test_energy_gain_of_a_system_is_the_norm_of_its_map(rng):
    A, B, C = stable(rng, 4, inputs=1, outputs=1)
    system = constant(A, B, C, 40)
    exact = torch.linalg.matrix_norm(dsf.attention_map(system), ord=2)
    torch.testing.assert_close(measures.energy_gain(system), exact, rtol=1e-9, atol=0)
    assert measures.energy_gain(system, steps=2) <= exact * (1 + 1e-12)


def test_positions_without_a_future_are_refused():
    with pytest.raises(IndexError, match="between 0 and 1"):
        measures.hankel_singular_values(torch.eye(3).double(), positions=[2])


def test_a_map_with_nan_has_no_order():
    map = torch.eye(4).double()
    map[2, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        measures.hankel_ranks(map)


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("LinearAttention", 4),
        ("GatedLinearAttention", 4),
        ("DeltaNet", 4),
        ("SelectiveStateSpace", 4),
        ("StateSpaceDuality", 3),
        ("QuasiLSTM", 1),
        ("RGLRU", 1),
    ],
)
def test_ranks_stop_at_the_states_of_the_system(name, states):
    mixer = getattr(dsf.mixers, name).draw(torch.Generator().manual_seed(1), steps=30)
    map = dsf.attention_map(mixer.system())
    assert measures.hankel_ranks(map).max() == states


def test_ranks_of_zero_sum_and_meta_linear_attention_stop_at_their_widths():
    rng = torch.Generator().manual_seed(1)
    zero_sum = dsf.mixers.ZeroSumAttention.draw(rng, steps=40)
    ranks = measures.hankel_ranks(dsf.attention_map(zero_sum.system()))
    assert ranks.max() <= 3 * zero_sum.key.shape[-1]
    meta = dsf.mixers.MetaLinearAttention.draw(rng, steps=40)
    ranks = measures.hankel_ranks(dsf.attention_map(meta.system()))
    assert ranks.max() == meta.decay.shape[-1]


def test_gramians_are_those_of_python_control(rng):
    control = pytest.importorskip("control", reason="python-control is not installed")
    A, B, C = stable(rng, 4)
    system = constant(A, B, C, 150)
    theirs = dsf.report.exchange.to_control(system)
    P = control.dlyap(theirs.A, theirs.B @ theirs.B.T)
    Q = control.dlyap(theirs.A.T, theirs.C.T @ theirs.C)
    ours = measures.controllability_gramians(system)[-1].numpy()
    np.testing.assert_allclose(ours, P, rtol=1e-9, atol=1e-11)
    seen = measures.observability_gramians(system)[0].numpy()
    np.testing.assert_allclose(seen, Q, rtol=1e-9, atol=1e-11)
