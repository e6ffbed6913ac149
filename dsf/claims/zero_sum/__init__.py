"""Claims of ZeroS (Lu et al. 2025, arXiv:2602.05230)."""

from dsf.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
