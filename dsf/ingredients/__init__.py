"""Mathematics that several mixers share."""

from dsf.ingredients.discretisation import bilinear, zero_order_hold
from dsf.ingredients.exponential_features import (
    Monomials,
    RandomFeatures,
    monomials,
    random_features,
    series_error,
)
from dsf.ingredients.feature_maps import (
    elu_plus_one,
    exp,
    identity,
    leaky_relu,
    relu,
    second_order,
    softplus,
    squares,
)

__all__ = [
    "Monomials",
    "RandomFeatures",
    "bilinear",
    "elu_plus_one",
    "exp",
    "identity",
    "leaky_relu",
    "monomials",
    "random_features",
    "relu",
    "second_order",
    "series_error",
    "softplus",
    "squares",
    "zero_order_hold",
]
