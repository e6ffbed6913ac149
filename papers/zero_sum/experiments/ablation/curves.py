"""What needs no training: dilution, orders of the expansion, growth with the logits.

Largest weights and orders come from the checks: a figure and a verdict share their numbers.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import dsf
from experiments.training.sweep import Result
from papers.zero_sum.checks import (
    largest_weight_shrinks_like_one_over_t,
    output_norms,
    residuals_shrink_by_their_order,
)
from papers.zero_sum.weighing import last_row

SCALES = tuple(float(scale) for scale in np.geomspace(0.1, 1000, 13))
GATES = ((0.8, 0.3), (0.5, 0.5))


def measured() -> Result:
    """All curves."""
    return {
        "dilution": dilution(),
        "largest_weight": dict(largest_weight_shrinks_like_one_over_t().evidence),
        "orders": dict(residuals_shrink_by_their_order().evidence),
        "growth": growth(),
    }


def dilution() -> Result:
    """The share of the uniform part, 1/(t |p|²), of softmax rows with standard normal logits."""
    rng = np.random.default_rng(0)
    lengths = (16, 64, 256, 1024, 4096, 16384)
    maps = [softmax_row(torch.from_numpy(rng.standard_normal(tokens))) for tokens in lengths]
    shares = [float(dsf.measures.uniform_share(map)) for map in maps]
    return {"tokens": list(lengths), "uniform_share": shares, "limit": float(np.exp(-1.0))}


def softmax_row(logits: Float[Tensor, " time"]) -> dsf.systems.ExplicitMap:
    """The explicit map of one query over all keys."""
    key, one = logits.unsqueeze(-1), torch.ones(1, 1, dtype=logits.dtype)
    return dsf.mixers.SoftmaxAttention(query=one, key=key, value=key, causal=False).system()


def growth() -> Result:
    """Norm of one output of 64 unit values against the scale of the logits, by kind of weights."""
    norms = {"softmax": output_norms(_softmax, SCALES)}
    for first, higher in GATES:
        norms[f"zero-sum, gates {first} and {higher}"] = output_norms(
            lambda logits, gates=(first, higher): last_row(logits, *gates), SCALES
        )
    return {"scales": list(SCALES), "norms": norms}


def _softmax(logits: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    return dsf.attention_map(softmax_row(logits)).squeeze(-2)
