"""Claims of the Dynamical Systems Framework (Sieber et al. 2024, arXiv:2405.15731)."""

from dsf.claims.claim import Claim
from dsf.claims.dynamical_systems import (
    bases,
    duality,
    effective_state,
    every_form,
    gates,
    orders,
    output_gate,
    padding,
    recall,
    separable,
    softmax_states,
)

CLAIMS: tuple[Claim, ...] = (
    *every_form.CLAIMS,
    *separable.CLAIMS,
    *duality.CLAIMS,
    *softmax_states.CLAIMS,
    *orders.CLAIMS,
    *padding.CLAIMS,
    *effective_state.CLAIMS,
    *bases.CLAIMS,
    *output_gate.CLAIMS,
    *gates.CLAIMS,
    *recall.CLAIMS,
)
