"""What needs no training: dilution, orders of the expansion, growth with the logits.

The first two come from the checks of the claims: a figure and a verdict share their numbers.
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dsf.claims.zero_sum.growth import (
    bounded_softmax_dilutes,
    largest_weight_shrinks_like_one_over_t,
    output_norms,
    softmax_row,
)
from dsf.claims.zero_sum.orders import residuals_shrink_by_their_order
from dsf.claims.zero_sum.weighing import last_row
from dsf.evaluate import attention_map
from experiments.training.sweep import Result

SCALES = tuple(float(scale) for scale in np.geomspace(0.1, 1000, 13))
GATES = ((0.8, 0.3), (0.5, 0.5))


def measured() -> Result:
    """All curves."""
    return {
        "dilution": dict(bounded_softmax_dilutes().evidence),
        "largest_weight": dict(largest_weight_shrinks_like_one_over_t().evidence),
        "orders": dict(residuals_shrink_by_their_order().evidence),
        "growth": growth(),
    }


def growth() -> Result:
    """Norm of one output of 64 unit values against the scale of the logits, by kind of weights."""
    norms = {"softmax": output_norms(_softmax, SCALES)}
    for first, higher in GATES:
        norms[f"zero-sum, gates {first} and {higher}"] = output_norms(
            lambda logits, gates=(first, higher): last_row(logits, *gates), SCALES
        )
    return {"scales": list(SCALES), "norms": norms}


def _softmax(logits: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    return attention_map(softmax_row(logits)).squeeze(-2)
