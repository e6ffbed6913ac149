"""State transitions A_t by structure: one file per structure, the same operations in each."""

from dsf.systems.transition.base import Transition
from dsf.systems.transition.dense import Dense
from dsf.systems.transition.diagonal import Diagonal
from dsf.systems.transition.kronecker import Kronecker
from dsf.systems.transition.low_rank import DiagonalPlusLowRank
from dsf.systems.transition.sampled_diagonal import SampledDiagonal
from dsf.systems.transition.scaled_identity import ScaledIdentity
from dsf.systems.transition.shift import Shift

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
