"""Mathematics that several mixers share."""

from dsf.ingredients.discretisation import bilinear, zero_order_hold
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
    "bilinear",
    "elu_plus_one",
    "exp",
    "identity",
    "leaky_relu",
    "relu",
    "second_order",
    "softplus",
    "squares",
    "zero_order_hold",
]
