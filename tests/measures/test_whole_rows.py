"""Reductions of rows by the compiled loop against torch, and ranks proved by an inverse."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf import measures
from dsf.mixers import DeltaNet, SoftmaxAttention
from dsf.systems import kernels as availability

MEASURES = (
    measures.absolute_gain,
    measures.convexity_defect,
    measures.half_life,
    measures.largest_ahead,
    measures.mass_by_lag,
    measures.mean_distance,
    measures.negative_share,
    measures.row_entropy,
    measures.row_norms,
    measures.row_sums,
    partial(measures.sink_mass, token=2),
    measures.smallest_entry,
    measures.uniform_share,
    partial(measures.window_mass, width=3),
    partial(measures.window_mass, width=100),
)
RNG = torch.Generator().manual_seed(3)


def signed(steps, *, causal=True, dtype=torch.float64):
    weights = torch.randn(2, 3, steps, steps, generator=RNG, dtype=dtype)
    return weights.tril() if causal else weights


def broken(number):
    weights = signed(70)
    weights[0, 1, 40, 7] = number
    return weights


def softmax(steps, **options):
    query, key = torch.randn(2, 2, 3, steps, 4, generator=RNG, dtype=torch.float64)
    return SoftmaxAttention(query=query, key=key, value=key, **options).system()


CASES = {
    "causal": lambda: signed(70),
    "both ways": lambda: signed(70, causal=False),
    "longer than a block": lambda: signed(600)[:1, :1],
    "single precision": lambda: signed(70, dtype=torch.float32),
    "a row of zeros": lambda: signed(70) * (torch.arange(70) != 5).unsqueeze(-1),
    "nan": lambda: broken(torch.nan),
    "infinity": lambda: broken(-torch.inf),
    "delta rule": lambda: DeltaNet.draw(RNG, steps=70).system(),
    "softmax": lambda: softmax(70),
    "softmax both ways": lambda: softmax(70, causal=False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_compiled_loop_finds_what_torch_finds(case, monkeypatch):
    source = case()
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        expected = measures.streamed(source, *MEASURES).values
    monkeypatch.setattr(availability, "WORTH", 0)
    found = measures.streamed(source, *MEASURES).values
    for ours, plain, measure in zip(found, expected, MEASURES, strict=True):
        assert_close(ours, plain, equal_nan=True, msg=lambda said, m=measure: f"{m}: {said}")


def test_sums_have_no_bound_where_tiles_are_skipped():
    with pytest.raises(ValueError, match="'by lag'"):
        measures.streamed(softmax(9), measures.mass_by_lag, error=1e-6)


@pytest.mark.parametrize("lost", [0, 1, 5])
def test_a_rank_is_that_of_the_singular_values(lost):
    weights = signed(41)[0]
    block = weights[:, 21:, :21]
    left, values, right = torch.linalg.svd(block, full_matrices=False)
    values[:, len(values[0]) - lost :] *= 1e-13
    weights[:, 21:, :21] = left @ values.diag_embed() @ right
    assert measures.hankel_ranks(weights, positions=[20]).tolist() == [[20 - lost]] * 3


def test_a_rank_just_below_the_tolerance_counts_as_lost():
    weights = torch.eye(4, dtype=torch.float64).repeat(2, 2)
    weights[4:, 0] *= 0.9e-10
    assert measures.hankel_ranks(weights, positions=[3]).tolist() == [3]
    weights[4:, 0] /= 0.9e-10 / 1.1e-10
    assert measures.hankel_ranks(weights, positions=[3]).tolist() == [4]


def test_ranks_take_the_later_rows_alone(monkeypatch):
    system = softmax(33)
    asked = []
    reach = type(system.C).reach
    monkeypatch.setattr(
        type(system.C), "reach", lambda rows, *span: asked.append(span) or reach(rows, *span)
    )
    found = dsf.measures.hankel_ranks(system, positions=[15])
    assert min(start for start, _ in asked) == 16
    assert (
        found.tolist()
        == dsf.measures.hankel_ranks(dsf.attention_map(system), positions=[15]).tolist()
    )
