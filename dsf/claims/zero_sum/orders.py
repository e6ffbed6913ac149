"""How fast the remainder of softmax shrinks when its first orders are subtracted."""

from itertools import pairwise

import numpy as np
import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held
from dsf.claims.zero_sum.weighing import Weigh, last_row

SCALES = (0.2, 0.1, 0.05, 0.025, 0.0125)
SLACK = 0.05


def residuals_shrink_by_their_order(weigh: Weigh = last_row) -> Certificate:
    """Log-log slopes of the largest residual at the small end of the scales."""
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal(64))
    logits = logits - logits.mean()
    second, third = [], []
    for scale in SCALES:
        deviation = scale * logits
        rest = weigh(deviation, 0.0, 1.0)
        quadratic = (deviation.square() - deviation.square().mean()) / (2 * len(logits))
        second.append(float(rest.abs().max()))
        third.append(float((rest - quadratic).abs().max()))
    slopes = [_last_slope(second), _last_slope(third)]
    return held(
        "residuals after the first and the second order shrink as e^2 and e^3",
        {
            "slope 2 within 0.05": abs(slopes[0] - 2) <= SLACK,
            "slope 3 within 0.05": abs(slopes[1] - 3) <= SLACK,
        },
        method="largest residual over 64 tokens, logits scaled by 0.2 halved to 0.0125",
        figures={"slopes": slopes, "scales": list(SCALES), "second": second, "third": third},
    )


def _last_slope(sizes: list[float]) -> float:
    return [float(np.log2(large / small)) for large, small in pairwise(sizes)][-1]


CLAIMS = (
    Claim(
        id="ZER-2",
        table=Table.PAPER,
        statement=(
            "What is left of softmax after its zero and first order is O(ε²), after its second "
            "order O(ε³), in the size ε of the centred logits."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=residuals_shrink_by_their_order,
        quote="… yields the residual: ε_{t,i} = … = O(‖δ‖²)",
        place=(
            "Reweighted Zero-sum Softmax; second order with O(‖s‖³) in The Expansion of Softmax "
            "Function"
        ),
        hypotheses=("small centred logits",),
    ),
)
