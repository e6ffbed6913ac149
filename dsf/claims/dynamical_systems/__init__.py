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
    parameters,
    recall,
    separable,
    softmax_states,
    taylor,
)

CLAIMS: tuple[Claim, ...] = (
    *every_form.CLAIMS,
    *separable.CLAIMS,
    *duality.CLAIMS,
    *taylor.CLAIMS,
    *softmax_states.CLAIMS,
    *orders.CLAIMS,
    *padding.CLAIMS,
    *effective_state.CLAIMS,
    *bases.CLAIMS,
    *output_gate.CLAIMS,
    *gates.CLAIMS,
    *parameters.CLAIMS,
    *recall.CLAIMS,
)
