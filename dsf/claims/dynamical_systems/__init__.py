"""Claims of the Dynamical Systems Framework (Sieber et al. 2024, arXiv:2405.15731)."""

from dsf.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
