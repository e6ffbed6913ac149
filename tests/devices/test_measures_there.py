"""Every measure that is no fold over rows, certificates and smaller systems on an accelerator."""

from functools import partial

import pytest
import torch

import dsf
from dsf import certify, measures
from dsf.certificates import Verdict
from tests.devices.conftest import mixer_there, moved
from tests.devices.emulated import KIND, SINGLE_ONLY, traffic
from tests.measures.test_every_fold import FOLDS, SIGNED, named
from tests.mixers.mixer_fields import draw

KEY = torch.randn(9, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
STEPS = 9


def weights_of(query, key):
    return (query @ key.mT).softmax(dim=-1)


def unit_signal(system):
    shape = (*system.batch, system.steps, system.input_size, 1)
    return torch.ones(shape, dtype=system.dtype, device=system.device)


OF_SYSTEMS = {
    "controllability_gramians": measures.controllability_gramians,
    "observability_gramians": measures.observability_gramians,
    "hankel_singular_values": measures.hankel_singular_values,
    "hankel_ranks": partial(measures.hankel_ranks, tolerance=1e-5),
    "states_needed": partial(measures.states_needed, error=0.1),
    "product_norms": measures.product_norms,
    "occupancy": partial(measures.occupancy, positions=[4]),
    "forgetting": partial(measures.forgetting, lags=[1, 3]),
    "retained": partial(measures.retained, noise=0.1),
    "interference": partial(measures.interference, noise=0.1),
    "overwritten": partial(measures.overwritten, noise=0.1),
    "erased_by": measures.erased_by,
    "state_norm": lambda system: measures.state_norm(system, unit_signal(system)),
    "memory_horizon": measures.memory_horizon,
    "lyapunov_exponents": measures.lyapunov_exponents,
    "window_sums": partial(measures.window_sums, width=3),
    "neighbourhood_mass": partial(measures.neighbourhood_mass, grid=(3, 3)),
    "effective_rank": measures.effective_rank,
    "sink_rate": measures.sink_rate,
    "energy_gain": measures.energy_gain,
    "map_distance": lambda system: measures.map_distance(system, dsf.attention_map(system) / 2),
    "largest_difference": lambda system: measures.largest_difference(
        system, dsf.attention_map(system) / 2
    ),
    "transition_eigenvalues": lambda system: measures.transition_eigenvalues(system).abs(),
}
OF_KEYS = {
    "key_rank": measures.key_rank,
    "jacobian_rank": lambda key: measures.jacobian_rank(lambda q: weights_of(q, key), key[:2]),
    "confusions": lambda key: measures.confusions(weights_of(key, key), key),
    "distance_ratios": lambda key: measures.distance_ratios(weights_of(key, key), key),
    "colliding_query": partial(measures.colliding_query, feature_map="elu_plus_one"),
}
NO_MAP = {"Streamed", "streamed", "uniform_neighbourhood"}  # the first two are met with the mixers


def test_every_measure_is_here():
    folds = {named(measure) for measure in FOLDS + SIGNED}
    assert set(measures.__all__) == folds | set(OF_SYSTEMS) | set(OF_KEYS) | NO_MAP


def numbers(found):
    """Every tensor of a result."""
    parts = found if isinstance(found, tuple) else (found,)
    return [part for part in parts if isinstance(part, torch.Tensor)]


def assert_same(ours, expected, there):
    single = there.index == SINGLE_ONLY
    limits = {"rtol": 1e-2, "atol": 1e-3} if single else {"rtol": 1e-8, "atol": 1e-8}
    for one, other in zip(numbers(ours), numbers(expected), strict=True):
        assert one.device == there
        torch.testing.assert_close(one.cpu().double(), other.double(), **limits)


@pytest.mark.parametrize("cls", [dsf.mixers.DeltaNet, dsf.mixers.GatedLinearAttention])
def test_measures_of_systems(cls, there):
    mixer = draw(cls, STEPS)
    system, here = mixer_there(mixer, there).system(), mixer.system()
    for name, measure in OF_SYSTEMS.items():
        if name == "energy_gain":  # its start is drawn on the device
            torch.testing.assert_close(
                measures.energy_gain(dsf.attention_map(system)).cpu().double(),
                measures.energy_gain(dsf.attention_map(here)),
                rtol=1e-3,
                atol=1e-3,
            )
            continue
        with traffic() as seen:
            ours = measure(system)
        assert (seen.sent, seen.fetched) == ([], []), name
        assert_same(ours, measure(here), there)


def test_measures_of_keys(there):
    for name, measure in OF_KEYS.items():
        ours, expected = measure(moved(KEY, there)), measure(KEY)
        assert_same(ours, expected, there)
        if isinstance(expected, int):
            assert ours == expected, name
    assert isinstance(measures.uniform_neighbourhood(grid=(3, 3)), float)


def test_smaller_systems(there):
    mixer = draw(dsf.mixers.GatedLinearAttention, STEPS)
    map = dsf.attention_map(mixer_there(mixer, there).system())
    expected = dsf.attention_map(mixer.system())
    tolerance = 1e-5 if there.index == SINGLE_ONLY else 1e-10
    small = (
        dsf.evaluate.realise(map, tolerance=tolerance),
        dsf.evaluate.reduce(map, order=STEPS).system,
    )
    for each in small:
        again = dsf.attention_map(each)
        assert again.device == there
        assert (again.cpu() - expected).abs().max() < 1e-3 * expected.abs().max()


OF_THE_MAP = {
    "causal": certify.causal,
    "row_sums": partial(certify.row_sums, tolerance=1e-4),
    "nonnegative": certify.nonnegative,
    "window_mass": partial(certify.window_mass, width=9, share=0.5),
    "same_map": lambda weights: certify.same_map(weights, weights, tolerance=0.0),
}
OF_THE_KEYS = {
    "margin": certify.margin,
    "injective": certify.injective,
    "nonexpansive": lambda key: certify.nonexpansive(key / 8, key[:, 0].sigmoid()),
    "decay": lambda key: certify.decay(-key[:, 0].abs() - 1, width=2, most=0.5),
    "decay_box": lambda key: certify.decay_box(
        key[0], key[0, 0], key[0, 1].abs() + 1, (-key[0].abs(), key[0].abs()), width=50, most=0.9
    ),
    "locality": lambda key: certify.locality(
        key, (-key[0].abs() / 64, key[0].abs() / 64), window=(0, 8), share=0.5
    ),
}


@pytest.mark.parametrize("name", OF_THE_MAP | OF_THE_KEYS)
def test_certificates(name, there):
    """They are decided in exact fractions on the processor, wherever the numbers come from."""
    weights = weights_of(KEY, KEY).tril()
    subject = KEY if name in OF_THE_KEYS else weights / weights.sum(dim=-1, keepdim=True)
    subject = subject.float().double()  # the same numbers on both devices
    certified = (OF_THE_MAP | OF_THE_KEYS)[name]
    ours, expected = certified(moved(subject, there)), certified(subject)
    assert (ours.verdict, ours.claim) == (expected.verdict, expected.claim)


@pytest.mark.parametrize("cls", [dsf.mixers.DeltaNet, dsf.mixers.SoftmaxAttention])
def test_the_laws_of_a_mixer(cls):
    """With double precision, which they compare with."""
    mixer = mixer_there(draw(cls, STEPS), torch.device(KIND, 0))
    found = dsf.testing.check_mixer(mixer)
    assert [law.claim for law in found if law.verdict is Verdict.REFUTED] == []
