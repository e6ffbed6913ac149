"""What the angle between query and key does to rows that sum to zero."""

import numpy as np
import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import refuted
from dsf.evaluate import attention_map, respond
from dsf.measures import row_sums
from dsf.mixers import ZeroSumAttention


def angle_keeps_the_zero_sum(angle: bool = True) -> Certificate:
    """Row sums against the absolute weight of the rows, and the response to constant values."""
    rng = np.random.default_rng(0)
    query, key = torch.from_numpy(rng.standard_normal((2, 24, 8)))
    logit = torch.from_numpy(rng.standard_normal(24))
    first, higher = torch.from_numpy(rng.standard_normal((2, 24))).sigmoid()
    mixer = ZeroSumAttention(
        value=torch.ones(24, 1, dtype=torch.float64),
        logit=logit,
        first_order=first,
        higher_order=higher,
        query=query if angle else None,
        key=key if angle else None,
    )
    system = mixer.system()
    sums = row_sums(system)
    size = attention_map(system).abs().sum(dim=-1).mean()
    worst = int(sums.abs().argmax())
    return refuted(
        "rows of r cos sum to zero, as rows of r do",
        float(sums.abs().mean() / size),
        beyond=1e-6,
        witness={
            "row": worst,
            "row_sum": float(sums[worst]),
            "response_to_constant_ones": float(respond(system, mixer.signal())[worst, 0, 0]),
            "mean_row_sum_over_mean_weight": float(sums.abs().mean() / size),
        },
        method="24 tokens, width 8, drawn directions, logits and gates",
    )


CLAIMS = (
    Claim(
        id="ZER-17",
        statement="Multiplying the radial weights by the cosine of query and key keeps rows at "
        "sum zero.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=angle_keeps_the_zero_sum,
        note=(
            "Row sums are half of the absolute weight on average, and a constant sequence of "
            "values gives an output other than zero."
        ),
    ),
)
