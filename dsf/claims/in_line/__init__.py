"""Claims of InLine attention (Han et al. 2024, arXiv:2412.06590)."""

from dsf.claims.claim import Claim
from dsf.claims.in_line import (
    confusion,
    expansion,
    forms,
    in_line_injectivity,
    linear_injectivity,
    local_residual,
    locality,
    parameters,
    printed_weights,
    rows,
    softmax_injectivity,
    vision_results,
    wall_clock,
)

CLAIMS: tuple[Claim, ...] = (
    *softmax_injectivity.CLAIMS,
    *linear_injectivity.CLAIMS,
    *in_line_injectivity.CLAIMS,
    *rows.CLAIMS,
    *forms.CLAIMS,
    *expansion.CLAIMS,
    *printed_weights.CLAIMS,
    *locality.CLAIMS,
    *local_residual.CLAIMS,
    *parameters.CLAIMS,
    *confusion.CLAIMS,
    *wall_clock.CLAIMS,
    *vision_results.CLAIMS,
)
