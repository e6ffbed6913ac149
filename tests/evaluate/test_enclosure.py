"""Enclosed maps: the map in 60 decimal digits lies inside, for every kind of operator."""

import pytest
import torch

import dsf
from dsf.systems.composite import ExplicitMap, RowSource, StoredRows, SystemSum

mpmath = pytest.importorskip("mpmath")
STEPS = 6
UNKNOWN = {
    "PathAttention",
    "StickBreakingAttention",
    "DeltaFormer",
    "ZeroSumSoftmaxAttention",
    "LogLinearAttention",
}
KNOWN = [cls for cls in dsf.mixers.ALL if cls.__name__ not in UNKNOWN]


def contains(enclosed, stored):
    away = (stored.to(enclosed.midpoint.dtype) - enclosed.midpoint).abs()
    return (away <= enclosed.radius).all()


def first(system):
    for _ in range(len(system.batch)):
        system = dsf.systems.algebra.select(system, 0)
    return system


def drawn(cls, seed=0):
    return first(cls.draw(torch.Generator().manual_seed(seed), steps=STEPS).system())


def many(part):
    """A tensor as a matrix of mpmath, exactly."""
    rows = part.resolve_conj().tolist()
    return mpmath.matrix(rows)


def true_map(system):
    """The map by the recurrence in 60 digits, one forward system or one that runs backward."""
    whole = system.window(0, system.steps, dtype=torch.float64)
    A, (B, C, D) = whole.A.dense(), (torch.as_tensor(p) for p in (whole.B, whole.C, whole.D))
    A, B, C, D = (part.expand(system.steps, *part.shape[-2:]) for part in (A, B, C, D))
    inputs, outputs = system.input_size, system.output_size
    found = mpmath.zeros(system.steps * outputs, system.steps * inputs)
    order = range(system.steps)
    state = mpmath.zeros(system.state_size, system.steps * inputs)
    for t in reversed(order) if system.runs_backward else order:
        before, state = state, many(A[t]) * state
        state = state.copy()
        state[:, t * inputs : (t + 1) * inputs] += many(B[t])
        row = many(C[t]) * (before if system.reads_before_update else state)
        row[:, t * inputs : (t + 1) * inputs] += many(D[t])
        found[t * outputs : (t + 1) * outputs, :] = row
    return found.apply(mpmath.re) if system.takes_real_part else found


def inside(enclosed, exact):
    for i in range(exact.rows):
        for j in range(exact.cols):
            middle = enclosed.midpoint[i, j].item()
            if abs(exact[i, j] - mpmath.mpmathify(middle)) > enclosed.radius[i, j].item():
                return False
    return True


SYSTEMS = [
    cls
    for cls in KNOWN
    if isinstance(drawn(cls), dsf.System) and not isinstance(drawn(cls).C, RowSource)
]


@pytest.mark.parametrize("cls", SYSTEMS, ids=lambda cls: cls.__name__)
def test_the_exact_map_of_every_system_is_inside(cls):
    system = drawn(cls)
    with mpmath.workdps(60):
        for each in (system, dsf.systems.algebra.reverse(system)):
            enclosed = dsf.attention_map(each, enclosed=True)
            assert inside(enclosed, true_map(each))
            assert enclosed.radius.max() <= 1e-11 * enclosed.midpoint.abs().max()


def test_sums_and_stored_maps_are_inside():
    system = drawn(dsf.mixers.GatedDeltaNet)
    both = SystemSum((system, dsf.systems.algebra.reverse(system)))
    with mpmath.workdps(60):
        exact = true_map(both.parts[0]) + true_map(both.parts[1])
        assert inside(dsf.attention_map(both, enclosed=True), exact)
    stored = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    enclosed = dsf.attention_map(ExplicitMap(StoredRows(stored)), enclosed=True)
    assert contains(enclosed, stored)
    assert (enclosed.radius == 0).all()


@pytest.mark.parametrize("cap", [None, 2.0])
def test_softmax_is_inside(cap):
    rng = torch.Generator().manual_seed(3)
    query, key = (torch.randn(STEPS, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    mixer = dsf.mixers.SoftmaxAttention(query=9 * query, key=key, value=key, softcap=cap)
    enclosed = dsf.attention_map(mixer.system(), enclosed=True)
    with mpmath.workdps(60):
        scores = many(9 * query) * many(key).T * mpmath.mpf(mixer.system().C.scale)
        if cap is not None:
            scores = scores.apply(lambda score: cap * mpmath.tanh(score / cap))
        exact = mpmath.zeros(STEPS, STEPS)
        for i in range(STEPS):
            weights = [mpmath.exp(scores[i, j]) for j in range(i + 1)]
            for j, weight in enumerate(weights):
                exact[i, j] = weight / mpmath.fsum(weights)
        assert inside(enclosed, exact)
    assert (enclosed.radius.triu(1) == 0).all()
    assert enclosed.radius.max() < 1e-11


def test_radii_are_not_empty_words():
    """A map moved by 1e-12 of itself is outside."""
    system = drawn(dsf.mixers.Retention)
    enclosed = dsf.attention_map(system, enclosed=True)
    moved = dsf.attention_map(system) * (1 + 1e-12)
    assert contains(enclosed, dsf.attention_map(system))
    assert not contains(enclosed, moved)
    assert (enclosed.midpoint - enclosed.radius <= dsf.attention_map(system)).all()
    assert (enclosed.midpoint + enclosed.radius >= dsf.attention_map(system)).all()
    assert (enclosed.radius.triu(1) == 0).all()


def test_what_cannot_be_enclosed_is_refused():
    rows = drawn(dsf.mixers.ZeroSumSoftmaxAttention)
    with pytest.raises(ValueError, match="ZeroSumRows"):
        dsf.attention_map(rows, enclosed=True)
    with pytest.raises(ValueError, match="'out'"):
        dsf.attention_map(drawn(dsf.mixers.LRU), out=torch.zeros(1, 1), enclosed=True)
    part = dsf.attention_map(drawn(dsf.mixers.LSTM), slice(1, None, 2), enclosed=True)
    whole = dsf.attention_map(drawn(dsf.mixers.LSTM), enclosed=True)
    assert part.radius.equal(whole.radius[1::2])
    overflown = dsf.evaluate.realise(torch.eye(2).double() * 1e308)
    overflown = dsf.systems.algebra.series(overflown, overflown)
    assert dsf.attention_map(overflown, enclosed=True).radius[0, 0] == torch.inf
