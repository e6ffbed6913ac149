"""Who erased a token: dense loops in NumPy, planted overwriters, and what decay alone does."""

import numpy as np
import pytest
import torch

import dsf
from dsf import measures, mixers
from dsf.measures.erasers import erasers, largest_losses, losses_by_map, query_losses
from dsf.systems.algebra import select
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import ExplicitMap, SystemSum
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank
from tests.drawn import STRUCTURES, Drawer, attention, both_ways

TOLERANCE = 1e-12


def parts_of(system):
    """Dense A, its decay, B and C, in the order of the recurrence, of a system without batch."""
    order = slice(None, None, -1 if system.runs_backward else 1)
    A = system.A.dense().numpy()[order]
    decay = np.stack([np.diag(one) for one in A])
    if isinstance(system.A, DiagonalPlusLowRank):
        decay = np.broadcast_to(system.A.decay.numpy(), A.shape[:2])[order]
    B, C = (dense_of(each).numpy()[order] for each in (system.B, system.C))
    return A, decay, B, C


def literal_account(system, query, key):
    """By token: decay, overwriting, spared; and the difference that all tokens together make."""
    steps = system.steps
    A, decay, B, C = parts_of(system)
    at = [steps - 1 - t if system.runs_backward else t for t in (query, key)]
    last = at[0] - (1 if system.reads_before_update else 0)

    def product(first, stop):
        found = np.eye(system.state_size)
        for t in range(first, stop + 1):
            found = A[t] @ found
        return found

    found, C_i, B_j = {}, C[at[0]], B[at[1]]
    for s in range(at[1] + 1, last + 1):
        left = product(at[1] + 1, s - 1) @ B_j
        own = np.diag(decay[s] - 1) @ left
        spared = C_i @ product(s + 1, last) @ (np.eye(system.state_size) - A[s]) @ left
        token = steps - 1 - s if system.runs_backward else s
        found[token] = (C_i @ own, C_i @ ((A[s] - np.diag(decay[s])) @ left), spared)
    difference = C_i @ product(at[1] + 1, last) @ B_j - C_i @ B_j
    real = np.real if system.takes_real_part else np.asarray
    return {token: [real(x) for x in each] for token, each in found.items()}, real(difference)


def matrix(value, like):
    return value.numpy() if isinstance(value, torch.Tensor) else np.full(like.shape, value)


def check(system, query, key):
    expected, difference = literal_account(system, query, key)
    found = erasers(system, query=query, key=key)
    assert [each.token for each in found] == list(expected)
    size = 1 + max((np.abs(x).max() for each in expected.values() for x in each), default=0)
    for each in found:
        numbers = (each.decay, each.overwriting, each.spared)
        for number, value in zip(numbers, expected[each.token], strict=True):
            np.testing.assert_allclose(matrix(number, value), value, atol=TOLERANCE * size, rtol=0)
        both = matrix(each.decay + each.overwriting, value)
        np.testing.assert_array_equal(matrix(each.total, value), both)
    total = sum((matrix(each.total, difference) for each in found), np.zeros(difference.shape))
    np.testing.assert_allclose(total, difference, atol=TOLERANCE * size, rtol=0)


def recurrent_parts(system):
    parts = system.parts if isinstance(system, SystemSum) else (system,)
    return [part for part in parts if isinstance(part, System)]


def test_shares_sum_to_what_the_map_lost_for_every_mixer(mixer):
    system = mixer.system()
    for part in recurrent_parts(system):
        one = select(part, (0,) * len(part.batch))
        for late, early in ((8, 0), (5, 3), (4, 4)):
            query, key = (early, late) if one.runs_backward else (late, early)
            if query != key or not one.reads_before_update:
                check(one, query, key)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("complex", "flags"),
    [
        (False, {}),
        (True, {"takes_real_part": True}),
        (False, {"reads_before_update": True, "runs_backward": True}),
        (False, {"runs_backward": True}),
    ],
)
def test_shares_of_drawn_systems_are_those_of_loops(structure, complex, flags):
    drawer = Drawer(3, complex=complex)
    for ports in ((1, 1), (2, 3)):
        system = drawer.system(structure, steps=7, states=4, ports=ports, **flags)
        check(system, *((1, 6) if system.runs_backward else (6, 1)))


def test_both_directions_are_added():
    drawer = Drawer(1)
    system = both_ways(drawer, drawer.system("low_rank", steps=6))
    found = [erasers(system, query=q, key=k) for q, k in ((5, 1), (1, 5))]
    forward, backward = system.parts
    alone = [erasers(forward, query=5, key=1), erasers(backward, query=1, key=5)]
    assert found == alone
    twice = SystemSum((system.parts[0],) * 2)
    doubled = erasers(twice, query=5, key=1)
    assert [each.total for each in doubled] == pytest.approx([2 * e.total for e in alone[0]])


def test_softmax_erases_nothing_and_moves_on_by_the_shares_of_later_keys():
    system = attention(steps=7)
    weights = dsf.attention_map(system)[6].numpy()
    found = erasers(system, query=6, key=2)
    assert [each.token for each in found] == [3, 4, 5, 6]
    assert all(each.decay == each.overwriting == each.total == 0 for each in found)
    log = np.log(weights)
    expected = [  # the log-weight of the key with the keys before and up to s in the normaliser
        np.log(np.exp(log[: s + 1]).sum()) - np.log(np.exp(log[:s]).sum()) for s in (3, 4, 5, 6)
    ]
    np.testing.assert_allclose([each.moved_on for each in found], expected, atol=1e-12)
    nothing_between = weights[2] / weights[:3].sum()
    moved = sum(each.moved_on for each in found)
    assert moved == pytest.approx(np.log(nothing_between) - log[2])


@pytest.mark.parametrize("query", [7, 4])
def test_all_keys_of_a_query_are_those_of_each(mixer, query):
    for part in recurrent_parts(mixer.system()):
        index = (0,) * len(part.batch)
        one = select(part, index)
        for token, *losses in query_losses(part, query=query):
            for key in range(token):
                s, j = (8 - token, 8 - key) if part.runs_backward else (token, key)
                (each,) = [e for e in erasers(one, query=query, key=j) if e.token == s]
                for whole, number in zip(losses, (each.decay, each.overwriting), strict=True):
                    entry = whole[index][:, key].numpy()
                    np.testing.assert_allclose(entry, matrix(number, entry), atol=1e-12)


def test_the_largest_losses_are_those_of_all(mixer):
    for part in recurrent_parts(mixer.system()):
        every = []
        for token, decay, overwriting in query_losses(part, query=5):
            sizes = torch.linalg.vector_norm(decay + overwriting, dim=(-3, -1))
            every += [(size, token) for size in sizes.flatten().tolist()]
        found = largest_losses(part, query=5, count=7)
        expected = sorted((size for size, _ in every if size), reverse=True)[:7]
        assert [loss.size for loss in found] == pytest.approx(expected)
        for loss in found:
            both = (loss.decay + loss.overwriting).abs().square().sum().sqrt()
            assert both.item() == pytest.approx(loss.size)
        for losses in losses_by_map(part, query=5, count=3):
            alone = [one for one in every_loss(part) if losses and one[1] == losses[0].entry]
            largest = sorted((size for size, _ in alone if size), reverse=True)[:3]
            assert [loss.size for loss in losses] == pytest.approx(largest)


def every_loss(part):
    for _, decay, overwriting in query_losses(part, query=5):
        sizes = torch.linalg.vector_norm(decay + overwriting, dim=(-3, -1))
        for entry in np.ndindex(*sizes.shape[:-1]):
            yield from ((size, entry) for size in sizes[entry].tolist())


PLANTED = ("DeltaNet", "GatedDeltaNet", "RWKV7")


def planted(name, rng, *, steps=40, size=16):
    """A mixer in which one later token writes to the key of an earlier one at full rate."""
    key = mixers.base.directions(rng, 1, steps, size)
    written, eraser = 3, int(torch.randint(8, steps - 4, (), generator=rng))
    key[:, eraser] = key[:, written]
    rate = 0.2 + 0.3 * torch.rand(1, steps, generator=rng, dtype=torch.float64)
    rate[:, eraser] = 1.0
    query = key[:, written : written + 1].expand(1, steps, size)
    value = torch.randn(1, steps, 4, generator=rng, dtype=torch.float64)
    decay = -0.02 * torch.rand(1, steps, generator=rng, dtype=torch.float64)
    if name == "DeltaNet":
        mixer = mixers.DeltaNet(query=query, key=key, value=value, rate=rate)
    elif name == "GatedDeltaNet":
        mixer = mixers.GatedDeltaNet(query=query, key=key, value=value, rate=rate, log_decay=decay)
    else:
        mixer = mixers.RWKV7(
            query=query,
            key=key,
            value=value,
            log_decay=decay.unsqueeze(-1).expand_as(key),
            removal=-key,
            replacement=rate.unsqueeze(-1) * key,
        )
    return mixer, written, eraser


def share_found(name, draws):
    hits = 0
    for seed in range(draws):
        mixer, written, eraser = planted(name, torch.Generator().manual_seed(seed))
        found = erasers(select(mixer.system(), 0), query=39, key=written)
        strongest = min(found, key=lambda each: each.total)
        hits += strongest.token == eraser and -strongest.overwriting > -strongest.decay
    return hits / draws


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_overwriter_ranks_first(name):
    assert share_found(name, 30) >= 0.95


@pytest.mark.nightly
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_overwriter_ranks_first_in_a_thousand_draws(name):
    assert share_found(name, 1000) >= 0.95


@pytest.mark.parametrize("structure", ["scaled_identity", "diagonal", "sampled_diagonal"])
def test_decay_alone_gives_decay_alone(structure):
    system = Drawer(2).system(structure, steps=8)
    assert all(each.overwriting == 0 for each in erasers(system, query=7, key=0))
    assert not measures.erased_by(system, part="overwriting").any()
    assert not measures.overwritten(system).any()


def test_the_profile_of_one_decay_is_its_own():
    one = torch.ones(6, 1, dtype=torch.float64)
    system = System.from_write_and_read(dsf.systems.transition.Diagonal(one / 2), one, one)
    assert [each.decay for each in erasers(system, query=4, key=0)] == [
        -0.5,
        -0.25,
        -0.125,
        -0.0625,
    ]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("flags", [{}, {"runs_backward": True}, {"reads_before_update": True}])
def test_energies_erased_are_those_of_loops(structure, flags):
    drawer = Drawer(5)
    system = drawer.system(structure, steps=6, states=4, ports=(2, 3), **flags)
    signal = drawer.tensor(6, 2, 2)
    A, decay, B, C = parts_of(system)
    order = slice(None, None, -1 if system.runs_backward else 1)
    values = signal.numpy()[order]
    expected = np.zeros((3, 6))

    def energy(state, s):
        """What the reads from token s on take of the state after it."""
        found, before = 0.0, int(system.reads_before_update)
        for i in range(s + before, 6):
            reached = state
            for t in range(s + 1, i + 1 - before):
                reached = A[t] @ reached
            found += (np.abs(C[i] @ reached) ** 2).sum()
        return found

    for s in range(6):
        for j in range(s):
            trace = B[j] @ values[j]
            for t in range(j + 1, s):
                trace = A[t] @ trace
            sizes = [energy(x, s) for x in (trace, np.diag(decay[s]) @ trace, A[s] @ trace)]
            expected[:, s] += (sizes[0] - sizes[1], sizes[1] - sizes[2], sizes[0] - sizes[2])
    for part, row in zip(("decay", "overwriting", "total"), expected, strict=True):
        found = measures.erased_by(system, signal, part=part).numpy()[order]
        np.testing.assert_allclose(found, row, atol=1e-11)


def test_long_sequences_are_erased_alike_window_by_window():
    system = Drawer(4).system("low_rank", steps=80, states=3)
    whole = measures.erased_by(system)
    P, Q = measures.controllability_gramians(system), measures.observability_gramians(system)
    B, C = dense_of(system.B), dense_of(system.C)
    reads = (Q + C.mH @ C)[1:]
    before = (reads.mT * P[:-1]).sum(dim=(-2, -1))
    after = (reads.mT * (P - B @ B.mH)[1:]).sum(dim=(-2, -1))
    torch.testing.assert_close(whole[1:], before - after)
    changed = dsf.systems.algebra.change_of_basis(system, Drawer(9).tensor(3, 3))
    torch.testing.assert_close(measures.erased_by(changed), measures.erased_by(system))


def test_a_delta_rule_without_decay_is_overwritten_and_not_decayed():
    rng = torch.Generator().manual_seed(0)
    which = torch.randint(0, 4, (64,), generator=rng)
    key = torch.eye(16, dtype=torch.float64)[:4][which][None]
    value = torch.randn(1, 64, 4, generator=rng, dtype=torch.float64)
    rate = torch.ones(1, 64, dtype=torch.float64)
    system = mixers.DeltaNet(query=key, key=key, value=value, rate=rate).system()
    kept, taken, over = (
        each(system) for each in (measures.retained, measures.interference, measures.overwritten)
    )
    assert (1 - kept - taken - over).abs().max() < 1e-3
    assert over.mean() > 0.9


@pytest.mark.parametrize("last", [-1, 4])
def test_overwritten_is_the_share_of_a_loop(mixer, last):
    for part in recurrent_parts(mixer.system()):
        if part.takes_real_part:
            continue
        one = select(part, (0,) * len(part.batch))
        A, decay, B, _ = parts_of(one)
        at = last % 9
        at = 8 - at if one.runs_backward else at
        found = measures.overwritten(one, at=last)
        found = found.flip(-1) if one.runs_backward else found
        gone = 1 - measures.retained(one, at=last) - measures.interference(one, at=last)
        gone = gone.flip(-1) if one.runs_backward else gone
        for j in range(at + 1):
            trace, lost = B[j], np.zeros(2)
            for s in range(j + 1, at + 1):
                sizes = [
                    (np.abs(x) ** 2).sum() for x in (trace, np.diag(decay[s]) @ trace, A[s] @ trace)
                ]
                lost += (sizes[0] - sizes[1], sizes[1] - sizes[2])
                trace = A[s] @ trace
            lost = lost.clip(min=0)
            share = lost[1] / lost.sum() if lost.sum() > 1e-8 else 0
            assert found[j].item() == pytest.approx(share * gone[j].item(), abs=1e-8)


@pytest.mark.parametrize("at", [-1, 4])
def test_what_a_state_keeps_of_tokens_is_mirrored_where_it_runs_backward(at):
    system = mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=9).system()
    back = dsf.systems.algebra.reverse(system)
    for measure in (measures.retained, measures.interference, measures.overwritten):
        forward = measure(system, at=at)
        assert forward.any()
        torch.testing.assert_close(measure(back, at=-1 - at).flip(-1), forward)


def test_wrong_calls_are_refused():
    system = Drawer(0).system("dense", steps=4)
    with pytest.raises(IndexError, match="query"):
        erasers(system, query=4, key=0)
    with pytest.raises(ValueError, match="key"):
        erasers(system, query=1, key=2)
    with pytest.raises(ValueError, match="batch"):
        erasers(Drawer(0).system("dense", batch=(2,)), query=1, key=0)
    with pytest.raises(ValueError, match="part"):
        measures.erased_by(system, part="all")
    rows = dsf.mixers.SoftmaxAttention.draw(torch.Generator().manual_seed(0), steps=5)
    with pytest.raises(ValueError, match="key"):
        erasers(select(rows.system(), (0,) * len(rows.system().batch)), query=1, key=3)
    cross = ExplicitMap(dsf.systems.composite.StoredRows(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="system"):
        erasers(cross, query=1, key=0)
