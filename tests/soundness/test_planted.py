"""Planted flaws that random attack misses, each beside a healthy twin.

On the flawed case PROVED fails the build; on the twin anything but PROVED does, so that "always
UNKNOWN" does not pass either. More than a thousand cases in all.
"""

from itertools import product

import pytest
import torch

from dsf import certify
from dsf.certificates import Verdict

PROVED, REFUTED = Verdict.PROVED, Verdict.REFUTED
CASES = range(60)
pytestmark = pytest.mark.sampled(count=6)


def generator(case):
    return torch.Generator().manual_seed(1000 + case)


def normal(rng, *size, dtype=torch.float32):
    return torch.randn(*size, generator=rng, dtype=torch.float64).to(dtype)


def dyadic_map(rng, steps=8):
    """Causal rows of multiples of 2^-20 that sum to exactly one."""
    counts = torch.randint(1, 1000, (steps, steps), generator=rng).tril()
    rows = (counts / counts.sum(dim=-1, keepdim=True) * 2**20).long()
    token = torch.arange(steps)
    rows[token, token] += 2**20 - rows.sum(dim=-1)
    return rows.double() / 2**20


def somewhere(rng, steps=8):
    row = int(torch.randint(1, steps, (), generator=rng))
    return row, int(torch.randint(0, row, (), generator=rng))


@pytest.mark.parametrize("case", CASES)
def test_a_tiny_negative_weight(case):
    rng = generator(case)
    map = dyadic_map(rng)
    assert certify.nonnegative(map).verdict is PROVED
    place = somewhere(rng)
    for size in (1e-12, 2.0**-40, 5e-324):
        map[place] = -size
        found = certify.nonnegative(map)
        assert found.verdict is REFUTED
        assert found.witness["row"] == place[0]
    map[place] = -0.0
    assert certify.nonnegative(map).verdict is PROVED


@pytest.mark.parametrize("case", CASES)
def test_a_tiny_look_ahead(case):
    rng = generator(case)
    map = dyadic_map(rng)
    assert certify.causal(map).verdict is PROVED
    row, column = somewhere(rng)
    map[column, row] = 2.0**-60
    assert certify.causal(map).verdict is REFUTED


@pytest.mark.parametrize("case", CASES)
def test_a_sum_one_unit_too_far(case):
    rng = generator(case)
    map = dyadic_map(rng)
    tolerance = 2.0**-30
    place = somewhere(rng)
    map[place] += tolerance
    assert certify.row_sums(map, tolerance=tolerance).verdict is PROVED
    map[place] = torch.nextafter(map[place], torch.tensor(2.0).double())
    assert certify.row_sums(map, tolerance=tolerance).verdict is REFUTED


@pytest.mark.parametrize("case", CASES)
def test_a_window_a_hair_short(case):
    rng = generator(case)
    map = dyadic_map(rng)
    near = map.triu(-2).sum(dim=-1)
    least = float(near.min())
    assert certify.window_mass(map, width=3, share=least).verdict is PROVED
    above = float(torch.nextafter(near.min(), torch.tensor(2.0).double()))
    verdict = certify.window_mass(map, width=3, share=min(above, 1.0)).verdict
    assert verdict is REFUTED or least == 1.0


@pytest.mark.parametrize("case", CASES)
def test_dependent_columns_of_keys(case):
    rng = generator(case)
    key = normal(rng, 12, 6)
    assert certify.injective(key).verdict is PROVED
    key[:, 4] = 2 * key[:, 1]
    assert certify.injective(key).verdict is REFUTED
    key[3, 4] += 2.0**-20
    assert certify.injective(key, first_row=11).verdict is PROVED


@pytest.mark.parametrize("case", CASES)
def test_keys_on_a_plane_that_misses_the_origin(case):
    """K v = 1 exactly: injective with a sink only."""
    rng = generator(case)
    key = torch.randint(-64, 64, (14, 5), generator=rng).float() / 8
    key[:, 0] = 1 - key[:, 1] + 2 * key[:, 3]
    assert certify.injective(key).verdict is REFUTED
    assert certify.injective(key, sink=True).verdict is PROVED


@pytest.mark.parametrize("case", CASES)
def test_duplicated_keys(case):
    rng = generator(case)
    key = normal(rng, 5, 5)[torch.randint(0, 5, (20,), generator=rng)]
    assert certify.injective(key, first_row=19).verdict is REFUTED


@pytest.mark.parametrize("case", range(10))
def test_rounding_noise_is_rank_but_no_margin(case):
    rng = generator(case)
    product_of_low_rank = normal(rng, 64, 5, dtype=torch.float64) @ normal(
        rng, 5, 8, dtype=torch.float64
    )
    key = product_of_low_rank.float()
    assert certify.injective(key, first_row=63).verdict is PROVED
    margin = certify.margin(key)
    rounding = 64 * 2.0**-24 * float(key.norm())
    assert margin.verdict is Verdict.UNKNOWN or margin.bound < rounding


@pytest.mark.parametrize("case", CASES)
def test_a_margin_is_below_the_singular_value(case):
    key = normal(generator(case), 24, 6)
    found = certify.margin(key)
    assert found.verdict is PROVED
    exact = torch.linalg.svdvals(torch.cat([key.double(), torch.ones(24, 1).double()], dim=-1))[-1]
    assert 0.99 * exact < found.bound <= exact


@pytest.mark.parametrize("case", CASES)
def test_a_worst_corner_of_a_box(case):
    """The claimed share lies a hair above, and a hair below, the share at the worst corner."""
    rng = generator(case)
    key = normal(rng, 24, 3, dtype=torch.float64)
    centre = normal(rng, 3, dtype=torch.float64)
    radius = 0.05 * torch.rand(3, generator=rng, dtype=torch.float64)
    box = (centre - radius, centre + radius)
    corners = torch.stack([torch.stack(c) for c in product(*zip(*box, strict=True))])
    least = float((corners @ key.mT).softmax(dim=-1)[:, :6].sum(dim=-1).min())
    flawed = certify.locality(key, box, window=(0, 6), share=least * (1 + 2**-12), scale=1.0)
    assert flawed.verdict is not PROVED
    healthy = certify.locality(key, box, window=(0, 6), share=least * 0.97, scale=1.0)
    assert healthy.verdict is PROVED


@pytest.mark.parametrize("case", CASES)
def test_one_token_that_does_not_decay(case):
    rng = generator(case)
    logs = -0.2 - torch.rand(3, 16, generator=rng, dtype=torch.float64)
    assert certify.decay(logs, width=1, most=0.9).verdict is PROVED
    channel, token = (int(torch.randint(0, n, (), generator=rng)) for n in (3, 16))
    logs[channel, token] = 0.0
    assert certify.decay(logs, width=1, most=0.9).verdict is REFUTED


@pytest.mark.parametrize("case", CASES)
def test_a_decay_bound_a_hair_too_small(case):
    rng = generator(case)
    weight = normal(rng, 4, dtype=torch.float64)
    bias, rate = torch.tensor(0.3).double(), torch.tensor(0.7).double()
    box = (-torch.ones(4).double(), torch.ones(4).double())
    worst = bias - weight.abs().sum()
    largest = float((-5 * rate * torch.nn.functional.softplus(worst)).exp())
    tight = certify.decay_box(weight, bias, rate, box, width=5, most=largest * (1 - 1e-9))
    assert tight.verdict is REFUTED
    loose = certify.decay_box(weight, bias, rate, box, width=5, most=largest * (1 + 1e-9))
    assert loose.verdict is PROVED


@pytest.mark.parametrize("case", CASES)
def test_a_delta_step_a_hair_too_long(case):
    rng = generator(case)
    key = torch.randint(-8, 9, (6, 4), generator=rng).double()
    key[:, 0] = 1.0
    rate = 2.0 / key.square().sum(dim=-1)
    rate = torch.where(rate.log2() == rate.log2().round(), rate, rate * (1 - 2.0**-50))
    assert certify.nonexpansive(key, rate).verdict is PROVED
    token = int(torch.randint(0, 6, (), generator=rng))
    rate[token] *= 1 + 2.0**-30
    assert certify.nonexpansive(key, rate).verdict is REFUTED


@pytest.mark.parametrize("feature_map", ["identity", "relu", "elu_plus_one"])
@pytest.mark.parametrize("case", range(20))
def test_linear_attention_always_confuses(case, feature_map):
    key = normal(generator(case), 9, 4)
    found = certify.linear_injective(key, feature_map=feature_map)
    assert found.verdict is REFUTED
    assert found.witness["query"] != found.witness["other"]


@pytest.mark.parametrize("case", CASES)
def test_maps_a_hair_apart(case):
    rng = generator(case)
    map = dyadic_map(rng)
    other = map.clone()
    other[somewhere(rng)] += 2.0**-25
    assert certify.same_map(map, other, tolerance=2.0**-25).verdict is PROVED
    assert certify.same_map(map, other, tolerance=2.0**-25 * (1 - 2**-50)).verdict is REFUTED


def test_order_of_summation_does_not_matter():
    cancelling = torch.tensor([[1e8, -1e8, 1.0]] * 3)
    assert certify.row_sums(cancelling).verdict is PROVED
    assert certify.row_sums(cancelling.flip(-1)).verdict is PROVED


def test_what_is_no_number_is_unknown():
    map = dyadic_map(generator(0))
    for bad in (torch.nan, torch.inf):
        broken = map.clone()
        broken[2, 1] = bad
        for found in (
            certify.row_sums(broken),
            certify.nonnegative(broken),
            certify.causal(broken),
            certify.window_mass(broken, width=2, share=0.5),
            certify.same_map(map, broken, tolerance=1.0),
            certify.injective(broken),
            certify.margin(broken[:, :3]),
        ):
            assert found.verdict is Verdict.UNKNOWN
            assert "NaN or infinite" in found.limits["data"]


def test_one_tensor_in_two_roles():
    map = dyadic_map(generator(0))
    assert certify.same_map(map, map, tolerance=0.0).verdict is PROVED
    assert certify.same_map(map, map[:], tolerance=0.0).verdict is PROVED
