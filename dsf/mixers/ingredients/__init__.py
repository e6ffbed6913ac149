"""Mathematics that several mixers share: feature maps, discretisation, softmax rows, memories."""

from dsf.mixers.ingredients.feature_maps import (
    Monomials,
    elu_plus_one,
    exp,
    identity,
    leaky_relu,
    monomials,
    random_features,
    relu,
    second_order,
    series_error,
    softplus,
    squares,
)
from dsf.mixers.ingredients.recurrences import bilinear, zero_order_hold

__all__ = [
    "Monomials",
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
