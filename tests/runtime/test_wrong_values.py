"""Values of the right kind that mean nothing: an error, never a number. What is near is right."""

import numpy as np
import pytest
import torch

import dsf
from dsf import measures

pytestmark = pytest.mark.usefixtures("our_own_errors")

RNG = torch.Generator().manual_seed(0)
MAP = torch.rand(6, 6, generator=RNG, dtype=torch.float64).tril()
KEY = torch.rand(5, 3, generator=RNG, dtype=torch.float64)
QUERY = torch.rand(4, 3, generator=RNG, dtype=torch.float64)
WEIGHTS = (QUERY @ KEY.mT).softmax(-1)
MIXER = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=6)
SYSTEM, SIGNAL = MIXER.system(), MIXER.signal()
NAN = torch.where(torch.arange(4)[:, None] == 1, torch.nan, QUERY)
HUGE = 10**20
BEYOND = 10**400


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: measures.sink_mass(MAP, token=-1), "token"),
        (lambda: measures.sink_mass(MAP, token=6), "token"),
        (lambda: measures.sink_mass(SYSTEM, token=6), "token"),
        (lambda: measures.sink_rate(MAP, token=HUGE), "token"),
        (lambda: measures.needle(MAP, query=-1, key=0), "query"),
        (lambda: measures.needle(MAP, query=HUGE, key=0), "query"),
        (lambda: measures.needle(MAP, query=3, key=HUGE), "key"),
        (lambda: measures.hankel_ranks(MAP, tolerance=-1), "tolerance"),
        (lambda: measures.hankel_ranks(SYSTEM, tolerance=1), "tolerance"),
        (lambda: measures.key_rank(KEY, tolerance=HUGE), "tolerance"),
        (lambda: measures.key_rank(KEY, tolerance=BEYOND), "tolerance"),
        (lambda: measures.key_rank(KEY.log() * torch.inf), "key"),
        (lambda: measures.jacobian_rank(lambda q: KEY @ q, QUERY, tolerance=2), "tolerance"),
        (lambda: measures.jacobian_rank(lambda q: KEY @ q, NAN), "query"),
        (lambda: measures.jacobian_rank(len, QUERY), "row"),
        (lambda: measures.jacobian_rank(lambda q: (KEY @ q).outer(q), QUERY), "row"),
        (lambda: measures.jacobian_rank(lambda q: (q - q).sqrt(), QUERY), "row"),
        (lambda: measures.confusions(WEIGHTS, NAN), "query"),
        (lambda: measures.confusions(WEIGHTS, QUERY, weights_within=-1), "weights_within"),
        (lambda: measures.confusions(WEIGHTS[:3], QUERY), "queries"),
        (lambda: measures.distance_ratios(WEIGHTS, NAN), "query"),
        (lambda: measures.distance_ratios(WEIGHTS, QUERY * 1e300), "query"),
        (
            lambda: measures.colliding_query(QUERY, feature_map="relu", factor=float("inf")),
            "factor",
        ),
        (lambda: measures.retained(SYSTEM, noise=float("inf")), "noise"),
        (lambda: measures.interference(SYSTEM, noise=0), "noise"),
        (lambda: measures.states_needed(MAP, error=float("inf")), "error"),
        (lambda: measures.energy_gain(MAP, seed=HUGE), "seed"),
        (lambda: measures.neighbourhood_mass(MAP, grid=(-2, -3)), "grid"),
        (lambda: measures.neighbourhood_mass(MAP, grid=(2, 3), radius=-1), "radius"),
        (lambda: measures.uniform_neighbourhood(grid=(0, 3)), "grid"),
        (lambda: measures.uniform_neighbourhood(grid=(2, 3), extra_tokens=-7), "extra_tokens"),
        (lambda: measures.row_sums([]), "blocks"),
        (lambda: measures.effective_rank(iter([])), "blocks"),
        (lambda: measures.row_sums([MAP]), "map_or_system"),
        (lambda: dsf.systems.algebra.select(SYSTEM, 2), "index"),
        (lambda: dsf.systems.algebra.select(SYSTEM, "a"), "index"),
        (lambda: dsf.systems.algebra.select(SYSTEM, np.eye(2)), "index"),
        (lambda: dsf.systems.algebra.select(SYSTEM, True), "index"),
        (lambda: dsf.systems.algebra.converted(SYSTEM, device="a"), "device"),
        (lambda: dsf.report.exchange.from_transformer_lens(3), "cache"),
        (lambda: dsf.certify.decay(-MAP[0], width=2, most=float("inf")), "most"),
        (
            lambda: dsf.certify.locality(
                KEY, (QUERY[0], QUERY[0]), window=(0, 2), share=0.1, scale=float("inf")
            ),
            "scale",
        ),
        (
            lambda: dsf.certify.locality(
                KEY, (QUERY[0, :2], QUERY[0, :2]), window=(0, 2), share=0.1
            ),
            r"box\[0\]",
        ),
        (lambda: dsf.evaluate.realise(MAP.half()), "map"),
        (lambda: dsf.evaluate.step(SYSTEM, 6, torch.zeros(2, 4, 3), SIGNAL[:, 0]), "token"),
        (lambda: dsf.evaluate.chunkwise(SYSTEM, SIGNAL, size=2.5), "size"),
        (lambda: dsf.respond(SYSTEM, SIGNAL.to("meta")), "signal"),
        (lambda: dsf.respond(SYSTEM, SIGNAL.to_sparse()), "signal"),
        (lambda: dsf.attention_map(SYSTEM, out=3), "out"),
        (lambda: dsf.attention_map(SYSTEM, rows=99), "rows"),
        (lambda: SYSTEM.states(3), "signal"),
        (lambda: SYSTEM.window("a", 2), "start"),
    ],
)
def test_what_means_nothing(call, argument):
    with pytest.raises((TypeError, ValueError, IndexError), match=rf"\b{argument}") as seen:
        call()
    assert not isinstance(seen.value, torch.linalg.LinAlgError)
    assert "/dsf/" in str(seen.traceback[-1].path)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (3, "'out'"),
        (SIGNAL[:1], "'out'"),
        (torch.zeros(1, dtype=torch.float64).expand(SIGNAL.shape), "memory"),
        (torch.zeros(SIGNAL.shape, dtype=torch.float64, requires_grad=True), "parameter"),
        (torch.zeros(SIGNAL.shape, device="meta"), "meta"),
        (SIGNAL, "'signal'"),
    ],
)
@pytest.mark.parametrize("method", [None, dsf.evaluate.scan])
def test_a_response_is_not_begun_where_it_cannot_be_stored(out, words, method):
    before = SIGNAL.clone()

    def run(*_):
        raise AssertionError("the work was begun")

    with pytest.raises((TypeError, ValueError), match=words):
        dsf.respond(SYSTEM, SIGNAL, method=method and run, out=out)
    assert torch.equal(SIGNAL, before)


def test_a_response_is_stored_beside_its_signal():
    room = torch.zeros(2, *SIGNAL.shape, dtype=torch.float64)
    room[0] = SIGNAL
    expected = dsf.respond(SYSTEM, SIGNAL, method="recurrent")
    torch.testing.assert_close(dsf.respond(SYSTEM, room[0], out=room[1]), expected)
    torch.testing.assert_close(room[1], expected)


def test_complex_signals_leave_complex_states():
    signal = torch.complex(SIGNAL, SIGNAL.flip(-3))
    expected = torch.complex(SYSTEM.states(SIGNAL), SYSTEM.states(SIGNAL.flip(-3)))
    torch.testing.assert_close(SYSTEM.states(signal), expected)


def test_half_precision_is_widened():
    """As the numbers themselves are in float32, which torch decomposes."""
    half = MAP.half()
    for measure in (measures.hankel_singular_values, measures.hankel_ranks, measures.occupancy):
        torch.testing.assert_close(measure(half), measure(half.float()))
    torch.testing.assert_close(
        measures.key_rank(KEY.half()).margin, measures.key_rank(KEY.half().float()).margin
    )
    weights, query = WEIGHTS.half(), QUERY.half()
    torch.testing.assert_close(
        measures.distance_ratios(weights, query),
        measures.distance_ratios(weights.float(), query.float()),
    )


def test_very_large_distances_are_all_of_the_map():
    everything = measures.window_mass(MAP, width=6)
    assert torch.equal(measures.window_mass(MAP, width=HUGE), everything)
    assert torch.equal(measures.neighbourhood_mass(MAP, grid=(2, 3), radius=HUGE), everything)
    assert torch.equal(
        measures.window_sums(SYSTEM, width=HUGE), measures.window_sums(SYSTEM, width=6)
    )


def test_numbers_of_other_libraries():
    plain = measures.energy_gain(SYSTEM, steps=4, seed=3)
    assert torch.equal(measures.energy_gain(SYSTEM, steps=np.int64(4), seed=np.int64(3)), plain)
    positions = torch.tensor([1, 3])
    assert torch.equal(
        measures.hankel_singular_values(MAP, positions=positions),
        measures.hankel_singular_values(MAP, positions=[1, 3]),
    )


def test_confusions_by_hand():
    """Rows 0 and 1 are equal, and so are 0 and 2 nearly; query 1 is that of 0."""
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9995, 0.0], [0.0, 1.0]])
    query = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    assert measures.confusions(weights, query) == 2
    assert measures.confusions(weights, query, weights_within=1e-4) == 0
