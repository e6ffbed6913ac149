"""Claims of InLine attention (Han et al. 2024, arXiv:2412.06590)."""

from dsf.claims.claim import Claim
from dsf.claims.in_line import rows

CLAIMS: tuple[Claim, ...] = (*rows.CLAIMS,)
