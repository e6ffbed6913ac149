"""Claims of Coefficient Dynamics (Sieber et al. 2025, arXiv:2510.09389)."""

from dsf.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
