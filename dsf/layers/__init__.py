"""Trainable token-mixer layers: weights around one mixer, ``(batch, time, model)`` both ways."""

from dsf.layers.layer import Layer
from dsf.layers.linear_attention import LinearAttention
from dsf.layers.normalised_attention import NormalisedAttention
from dsf.layers.softmax_attention import SoftmaxAttention
from dsf.layers.zero_sum_attention import ZeroSumAttention

ALL: tuple[type[Layer], ...] = (
    SoftmaxAttention,
    LinearAttention,
    NormalisedAttention,
    ZeroSumAttention,
)

__all__ = ["ALL", "Layer", *(layer.__name__ for layer in ALL)]
