"""Certificates: statements about maps, systems and mixers with a verdict and its evidence."""

from dsf.certificates.boxes import locality
from dsf.certificates.certificate import Certificate, Level, Verdict
from dsf.certificates.injectivity import injective, linear_injective, margin
from dsf.certificates.maps import (
    StoredLayer,
    causal,
    equivalent,
    nonnegative,
    reduction_error,
    row_sums,
    same_map,
    window_mass,
    zero_sums,
)
from dsf.certificates.transitions import (
    HeadHorizon,
    Horizon,
    decay,
    decay_box,
    horizon,
    nonexpansive,
)

__all__ = [
    "Certificate",
    "HeadHorizon",
    "Horizon",
    "Level",
    "StoredLayer",
    "Verdict",
    "causal",
    "decay",
    "decay_box",
    "equivalent",
    "horizon",
    "injective",
    "linear_injective",
    "locality",
    "margin",
    "nonexpansive",
    "nonnegative",
    "reduction_error",
    "row_sums",
    "same_map",
    "window_mass",
    "zero_sums",
]
