"""Trainable layers: projections around one token mixer, ``(batch, time, model)`` to the same."""

from dsf.layers.attention import LinearAttention, NormalisedAttention, SoftmaxAttention
from dsf.layers.gated_filters import RGLRU, QuasiLSTM
from dsf.layers.in_line_attention import InLineAttention, LocalResidual
from dsf.layers.layer import Layer, Memory, as_executed
from dsf.layers.matrix_memories import DeltaNet, GatedLinearAttention, MetaLinearAttention
from dsf.layers.state_spaces import Mamba, SelectiveStateSpace, StateSpaceDuality
from dsf.layers.zero_sum import ZeroSumAttention, ZeroSumSoftmaxAttention

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
