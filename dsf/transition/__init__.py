"""State transitions A_t by structure: one file per structure, the same operations in each."""

from dsf.transition.base import Transition
from dsf.transition.dense import Dense
from dsf.transition.diagonal import Diagonal
from dsf.transition.kronecker import Kronecker
from dsf.transition.low_rank import DiagonalPlusLowRank
from dsf.transition.sampled_diagonal import SampledDiagonal
from dsf.transition.scaled_identity import ScaledIdentity
from dsf.transition.shift import Shift

__all__ = [
    "Dense",
    "Diagonal",
    "DiagonalPlusLowRank",
    "Kronecker",
    "SampledDiagonal",
    "ScaledIdentity",
    "Shift",
    "Transition",
]
