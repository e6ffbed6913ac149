"""What the angle between query and key does to rows that sum to zero."""

import numpy as np
import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
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
        "rows of r cos θ sum to zero, as rows of r do",
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
        table=Table.PAPER,
        statement="Rows of the weights r cos θ sum to zero, as rows of r do.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=angle_keeps_the_zero_sum,
        quote=(
            "Both r_{t,i} and cos θ are centered values, preserving zero-sum properties in the "
            "weights r_{t,i} cos θ."
        ),
        place="Zero-Sum Linear Attention (ZeroS)",
        hypotheses=("cos θ the cosine of query and key of each pair",),
        stands=(
            "Rows of r, before the cosine, sum to zero (ZER-1), and everything shown for them "
            "stands."
        ),
        note=(
            "Row sums are half of the absolute weight on average, and a constant sequence of "
            "values gives an output other than zero."
        ),
    ),
)
