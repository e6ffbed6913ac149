"""Claims of ZeroS (Lu et al. 2025, arXiv:2602.05230)."""

from dsf.claims.claim import Claim
from dsf.claims.zero_sum import (
    angle,
    averaging,
    bounds,
    forms,
    growth,
    lipschitz,
    orders,
    printed_mask,
    reachable,
    released_layer,
    released_scan,
    results,
    two_tokens,
    zero_sums,
)

CLAIMS: tuple[Claim, ...] = (
    *zero_sums.CLAIMS,
    *orders.CLAIMS,
    *forms.CLAIMS,
    *reachable.CLAIMS,
    *two_tokens.CLAIMS,
    *bounds.CLAIMS,
    *lipschitz.CLAIMS,
    *growth.CLAIMS,
    *angle.CLAIMS,
    *released_scan.CLAIMS,
    *released_layer.CLAIMS,
    *averaging.CLAIMS,
    *printed_mask.CLAIMS,
    *results.CLAIMS,
)
