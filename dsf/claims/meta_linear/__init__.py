"""Claims of MetaLA (Chou et al. 2024, arXiv:2411.10741)."""

from dsf.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = ()
