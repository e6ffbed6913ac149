"""State transitions A_t by structure, with the same operations in each."""

from dsf.systems.transition.structures import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    Kronecker,
    SampledDiagonal,
    ScaledIdentity,
    Shift,
    Transition,
)

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
