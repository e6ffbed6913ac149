"""Horizons: the least width by dense loops, replays that keep the bound, and heads that keep."""

import math

import pytest
import torch

import dsf
from dsf import certify, mixers
from dsf.certificates import Verdict, checker
from dsf.inspection.results.layers import InspectedLayer
from dsf.systems.system import System
from dsf.systems.transition import Diagonal
from tests.drawn import STRUCTURES, Drawer, attention

STEPS = 30


def literal_horizon(A, eps):
    """The least width for which every product of so many transitions after the first is small."""
    for width in range(1, len(A)):
        norms = []
        for t in range(width, len(A)):
            product = torch.eye(A.shape[-1], dtype=A.dtype)
            for s in range(t - width + 1, t + 1):
                product = A[s] @ product
            norms.append(torch.linalg.matrix_norm(product, ord=2).item())
        if max(norms) <= eps:
            return width
    return None


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("complex", [False, True])
def test_the_width_is_that_of_a_loop(structure, complex):
    system = Drawer(3, complex=complex).system(structure, steps=STEPS, states=4)
    eps = 0.5 if structure == "sampled_diagonal" else 1e-2
    found = certify.horizon(system, eps)
    (head,) = found.heads
    assert head.width == found.width == literal_horizon(system.A.dense(), eps)
    assert found.verdict is Verdict.PROVED
    assert [each.verdict for each in head.certificates] == [Verdict.PROVED]


def test_a_run_that_runs_backward():
    system = Drawer(1).system("dense", steps=STEPS, runs_backward=True)
    assert certify.horizon(system, 1e-2).width == literal_horizon(system.A.dense().flip(0), 1e-2)


def replayed(cases):
    """How many replays from t - W differ by more than eps of the difference of the states there."""
    rng, broken, seen, seed = torch.Generator().manual_seed(0), 0, 0, 0
    while seen < cases:
        structure = STRUCTURES[seed % len(STRUCTURES)]
        eps = 10 ** -(0.5 + 3 * torch.rand((), generator=rng).item())
        system = Drawer(seed).system(structure, steps=STEPS, states=3)
        width = certify.horizon(system, eps).width
        seed += 1
        if width is None:
            continue
        A = system.A.dense()
        for t in range(width, STEPS):
            state = torch.randn(3, 1, generator=rng, dtype=torch.float64)
            size = state.norm()
            for s in range(t - width + 1, t + 1):
                state = A[s] @ state
            broken += bool(state.norm() > eps * size * (1 + 1e-12))
            seen += 1
    return broken


def test_replays_keep_the_bound():
    assert replayed(200) == 0


@pytest.mark.nightly
def test_ten_thousand_replays_keep_the_bound():
    assert replayed(10_000) == 0


def test_the_mean_decay_misleads():
    """Half of the tokens clear the state, the others keep it: the mean says 14 tokens, 50 hold."""
    logs = torch.zeros(200, 1, dtype=torch.float64)
    logs[:50] = logs[100:150] = -0.7
    one = torch.ones(200, 1, dtype=torch.float64)
    system = System.from_write_and_read(Diagonal(logs.exp()), one, one)
    by_mean = math.ceil(math.log(1e-2) / logs.mean().item())
    found = certify.horizon(system, 1e-2)
    assert by_mean == 14
    assert found.width == 50 + 7
    assert found.verdict is Verdict.PROVED
    lost = logs[75 - by_mean + 1 : 76].sum().exp().item()  # a replay by the mean at token 75
    assert lost == 1


def test_a_replay_reads_the_last_tokens_alone_and_keeps_the_bound():
    drawn = mixers.GatedDeltaNet.draw(torch.Generator().manual_seed(0), steps=60)
    system, signal = drawn.system(), drawn.signal()
    found = certify.horizon(system, 1e-3)
    assert found.width < 45
    whole, start = dsf.respond(system, signal), 50
    hidden = signal.clone()
    hidden[..., : start - found.width, :, :] = torch.nan
    late = found.replay(system, hidden, start)
    before = system.states(signal)[..., start - found.width - 1, :, :].norm(dim=(-2, -1))
    reads = system.window(start, start + 1).C.norm(dim=(-2, -1)).squeeze(-1)
    off = (late - whole[..., start:, :, :])[..., 0, :, :].norm(dim=(-2, -1))
    assert (off <= 1e-3 * reads * before).all()
    assert off.max() > 0
    early = found.replay(system, signal, 3)
    torch.testing.assert_close(early, whole[..., 3:, :, :])
    with pytest.raises(ValueError, match="start"):
        found.replay(system, signal, 60)
    with pytest.raises(ValueError, match="longest"):
        certify.horizon(system, 1e-9, longest=1).replay(system, signal, 3)


def test_heads_that_keep_are_unknown():
    one = torch.ones(9, 1, dtype=torch.float64)
    keeps = certify.horizon(System.from_write_and_read(Diagonal(one), one, one), 0.5)
    assert (keeps.width, keeps.verdict) == (None, Verdict.UNKNOWN)
    assert certify.horizon(attention(), 0.5).verdict is Verdict.UNKNOWN
    rule = mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=12).system()
    found = certify.horizon(rule, 1e-3)
    assert [head.index for head in found.heads] == [(0,), (1,)]
    assert found.width is None


@pytest.mark.parametrize("affordable", [True, False])
def test_a_gated_delta_rule_is_accepted_by_its_products_or_its_decays(affordable, monkeypatch):
    if not affordable:
        monkeypatch.setattr(checker, "MAX_WORK_BITS", 1 << 18)
    drawn = mixers.GatedDeltaNet.draw(torch.Generator().manual_seed(0), steps=40)
    layer = InspectedLayer("it", "drawn", drawn, ("sample",), error=0.0, tolerance=1.0)
    found = certify.horizon(layer, 1e-2)
    for head in found.heads:
        A = drawn.system().A.dense()[head.index]
        assert head.width == literal_horizon(A, 1e-2)
        if affordable:
            assert head.checked == head.width
            continue
        assert head.checked is None or head.checked > head.width
        accepted = [each for each in head.certificates if each.verdict is Verdict.PROVED]
        assert len(accepted) == (0 if head.checked is None else 2)
    assert any(head.checked for head in found.heads)


def test_wrong_calls_are_refused():
    system = Drawer(0).system("dense")
    for eps in (0.0, 1.0):
        with pytest.raises(ValueError, match="eps"):
            certify.horizon(system, eps)
    with pytest.raises(ValueError, match="longest"):
        certify.horizon(system, 0.5, longest=0)
    rows = dsf.mixers.SoftmaxAttention.draw(torch.Generator().manual_seed(0), steps=5)
    for odd in (dsf.systems.composite.SystemSum((system, system)), rows, 3):
        with pytest.raises(ValueError, match="layer"):
            certify.horizon(odd, 0.5)
    assert certify.horizon(rows.system(), 0.5).width is None
