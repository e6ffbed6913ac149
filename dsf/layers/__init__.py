"""Trainable layers: projections around one token mixer, ``(batch, time, model)`` to the same."""

from dsf.layers.attention import (
    InLineAttention,
    LinearAttention,
    LocalResidual,
    NormalisedAttention,
    SoftmaxAttention,
    ZeroSumAttention,
    ZeroSumSoftmaxAttention,
)
from dsf.layers.layer import Layer, Memory, as_executed
from dsf.layers.matrix_memories import DeltaNet, GatedLinearAttention, MetaLinearAttention
from dsf.layers.recurrent import RGLRU, Mamba, QuasiLSTM, SelectiveStateSpace, StateSpaceDuality

ALL: tuple[type[Layer], ...] = (
    SoftmaxAttention,
    LinearAttention,
    NormalisedAttention,
    InLineAttention,
    ZeroSumAttention,
    ZeroSumSoftmaxAttention,
    SelectiveStateSpace,
    StateSpaceDuality,
    GatedLinearAttention,
    DeltaNet,
    MetaLinearAttention,
    Mamba,
    QuasiLSTM,
    RGLRU,
)

__all__ = ["ALL", "Layer", "LocalResidual", "Memory", "as_executed"]
__all__ += [layer.__name__ for layer in ALL]
