"""Claims of coefficient dynamics (Sieber et al. 2025, arXiv:2510.09389)."""

from dsf.claims.claim import Claim
from dsf.claims.coefficient_dynamics import finite_form, order_of_the_past, scores, structure

CLAIMS: tuple[Claim, ...] = (
    *order_of_the_past.CLAIMS,
    *scores.CLAIMS,
    *finite_form.CLAIMS,
    *structure.CLAIMS,
)
