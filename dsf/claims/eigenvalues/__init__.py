"""Claims of eigenvalue analyses of trained layers (Rickenbach et al. 2025, arXiv:2510.09379)."""

from dsf.claims.claim import Claim
from dsf.claims.eigenvalues import analysed_input, released_analysis, spectra

CLAIMS: tuple[Claim, ...] = (
    *spectra.CLAIMS,
    *released_analysis.CLAIMS,
    *analysed_input.CLAIMS,
)
