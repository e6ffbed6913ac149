"""Mathematics that several mixers share: feature maps, discretisation, softmax rows, memories."""

from dsf.mixers.ingredients.feature_maps import Monomials as Monomials
from dsf.mixers.ingredients.feature_maps import elu_plus_one as elu_plus_one
from dsf.mixers.ingredients.feature_maps import exp as exp
from dsf.mixers.ingredients.feature_maps import identity as identity
from dsf.mixers.ingredients.feature_maps import leaky_relu as leaky_relu
from dsf.mixers.ingredients.feature_maps import monomials as monomials
from dsf.mixers.ingredients.feature_maps import random_features as random_features
from dsf.mixers.ingredients.feature_maps import relu as relu
from dsf.mixers.ingredients.feature_maps import second_order as second_order
from dsf.mixers.ingredients.feature_maps import series_error as series_error
from dsf.mixers.ingredients.feature_maps import softplus as softplus
from dsf.mixers.ingredients.feature_maps import squares as squares
from dsf.mixers.ingredients.recurrences import bilinear as bilinear
from dsf.mixers.ingredients.recurrences import zero_order_hold as zero_order_hold
from dsf.runtime.first_use import public_names

__all__ = public_names(__name__)
