"""The causal mask as it is printed, with minus infinity as a factor."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import shown

TOKENS = 5


def mask_is_multiplied(join: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Certificate:
    """Rows of a softmax map that are not defined."""
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((TOKENS, TOKENS)))
    past = torch.ones_like(logits)
    if join is not torch.mul:
        past = torch.zeros_like(logits)
    mask = past.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf)
    map = join(mask, logits).softmax(dim=-1)
    undefined = map.isnan().any(dim=-1)
    return shown(
        "softmax of logits times a mask with -∞ is undefined where a later logit is negative",
        float(undefined.sum()),
        beyond=0.5,
        case={
            "undefined rows, from 1": [int(t) + 1 for t in undefined.nonzero()],
            "logits of row 1": logits[0].tolist(),
        },
        method=f"{TOKENS} x {TOKENS} normal logits",
    )


CLAIMS = (
    Claim(
        id="ZER-36",
        table=Table.SLIP,
        statement="The Preliminaries multiply the logits by a mask with -∞, which must be added.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=mask_is_multiplied,
        quote="σ(M ⊙ (QK^⊤))",
        place="Preliminaries",
        hypotheses=('"M_ij = 1{i ≥ j} - ∞·1{i < j}"',),
        note="-∞ times a negative logit is +∞, and the row is undefined.",
    ),
)
