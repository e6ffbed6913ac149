"""Claims of MetaLA (Chou et al. 2024, arXiv:2411.10741)."""

from dsf.claims.claim import Claim
from dsf.claims.meta_linear import (
    augmentation,
    classification,
    decays,
    forms,
    half_the_channels,
    overwriting,
    parameters,
    queries,
    row_sums,
    states,
    tables,
    tied_keys,
    unified_form,
)

CLAIMS: tuple[Claim, ...] = (
    *forms.CLAIMS,
    *unified_form.CLAIMS,
    *overwriting.CLAIMS,
    *tied_keys.CLAIMS,
    *queries.CLAIMS,
    *states.CLAIMS,
    *half_the_channels.CLAIMS,
    *decays.CLAIMS,
    *row_sums.CLAIMS,
    *augmentation.CLAIMS,
    *classification.CLAIMS,
    *parameters.CLAIMS,
    *tables.CLAIMS,
)
