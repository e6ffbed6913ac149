"""Laws that every fold over rows keeps, for every mixer."""

from functools import partial

import pytest
import torch

import dsf
from dsf import measures

TOKENS = torch.tensor([3, 1, 4, 1, 5, 3, 1, 4, 3])
FOLDS = [
    measures.row_sums,
    measures.row_sum_spread,
    measures.column_sums,
    measures.largest_ahead,
    measures.row_entropy,
    measures.effective_tokens,
    measures.uniformity_gap,
    measures.uniform_share,
    measures.sink_mass,
    measures.absolute_gain,
    measures.row_norms,
    measures.column_norms,
    measures.off_diagonal_energy,
    measures.mean_distance,
    measures.mass_by_lag,
    measures.half_life,
    partial(measures.window_mass, width=3),
]
SIGNED = [
    measures.negative_mass,
    measures.negative_share,
    measures.negative_entries,
    measures.smallest_entry,
    measures.convexity_defect,
    measures.previous_token,
    measures.first_token,
    measures.self_token,
    partial(measures.needle, query=4, key=2),
    partial(measures.duplicate_token, tokens=TOKENS),
    partial(measures.induction, tokens=TOKENS),
    partial(measures.copying, effects=torch.linspace(-1, 2, 9, dtype=torch.float64)),
]


def named(measure):
    return getattr(measure, "func", measure).__name__


def alike(found, expected, scale, measure):
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-12 * scale, equal_nan=True, msg=named(measure)
    )


@pytest.mark.sampled("one_port_system")
@pytest.mark.parametrize("size", [1, 4])
def test_a_map_its_system_and_its_blocks_measure_alike(one_port_system, size):
    map = dsf.attention_map(one_port_system)
    blocks = list(dsf.evaluate.row_blocks(one_port_system, size=size))
    for measure in FOLDS:
        expected = measure(map)
        scale = expected.abs().nan_to_num(0.0).max().clamp(min=1.0).item()
        alike(measure(one_port_system), expected, scale, measure)
        alike(measure(blocks), expected, scale, measure)


def test_signs_of_a_map_and_its_system_measure_alike(real_system):
    map = dsf.attention_map(real_system)
    for measure in SIGNED:
        expected = measure(map)
        scale = expected.abs().max().clamp(min=1.0).item()
        alike(measure(real_system), expected, scale, measure)


def test_window_sums_are_the_band_of_the_map(causal_system):
    map = dsf.attention_map(causal_system)
    token = torch.arange(causal_system.steps)
    written = token.repeat_interleave(causal_system.output_size)
    lag = written[:, None] - token.repeat_interleave(causal_system.input_size)
    for width in (1, 3, causal_system.steps + 2):
        band = (map * ((lag >= 0) & (lag < width))).sum(dim=-1)
        torch.testing.assert_close(measures.window_sums(causal_system, width=width), band)


def test_row_sums_are_the_response_to_ones(mixer):
    system = mixer.system()
    map = dsf.attention_map(system)
    torch.testing.assert_close(measures.row_sums(system), map.sum(dim=-1))


def test_folds_keep_the_number_type(real_system):
    single = dsf.systems.algebra.converted(real_system, dtype=torch.float32)
    assert measures.window_mass(single, width=2).dtype is torch.float32
    assert measures.row_entropy(real_system).dtype is torch.float64


COUNTS = {"half_life", "negative_entries", "largest_ahead"}
SMOOTH = [measure for measure in FOLDS + SIGNED if named(measure) not in COUNTS]


@pytest.mark.parametrize("measure", SMOOTH, ids=named)
def test_gradients_reach_the_map(measure):
    rng = torch.Generator().manual_seed(1)
    map = torch.rand(5, 5, generator=rng, dtype=torch.float64).tril().requires_grad_()
    value = measure(map - 0.3 * torch.ones_like(map).tril())
    (gradient,) = torch.autograd.grad(value.nan_to_num(0.0).sum(), map)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
