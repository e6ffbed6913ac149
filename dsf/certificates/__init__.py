"""Certificates: statements about maps, systems and mixers with a verdict and its evidence."""

from dsf.certificates.boxes import locality as locality
from dsf.certificates.certificate import Certificate as Certificate
from dsf.certificates.certificate import Level as Level
from dsf.certificates.certificate import Verdict as Verdict
from dsf.certificates.injectivity import injective as injective
from dsf.certificates.injectivity import linear_injective as linear_injective
from dsf.certificates.injectivity import margin as margin
from dsf.certificates.maps import StoredLayer as StoredLayer
from dsf.certificates.maps import causal as causal
from dsf.certificates.maps import equivalent as equivalent
from dsf.certificates.maps import nonnegative as nonnegative
from dsf.certificates.maps import reduction_error as reduction_error
from dsf.certificates.maps import row_sums as row_sums
from dsf.certificates.maps import same_map as same_map
from dsf.certificates.maps import window_mass as window_mass
from dsf.certificates.maps import zero_sums as zero_sums
from dsf.certificates.transitions import HeadHorizon as HeadHorizon
from dsf.certificates.transitions import Horizon as Horizon
from dsf.certificates.transitions import decay as decay
from dsf.certificates.transitions import decay_box as decay_box
from dsf.certificates.transitions import horizon as horizon
from dsf.certificates.transitions import nonexpansive as nonexpansive
from dsf.runtime.first_use import public_names

__all__ = public_names(__name__)
