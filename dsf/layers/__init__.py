"""Trainable layers: projections around one token mixer, ``(batch, time, model)`` to the same."""

from dsf.layers.delta_net import DeltaNet
from dsf.layers.gated_linear_attention import GatedLinearAttention
from dsf.layers.in_line_attention import InLineAttention, LocalResidual
from dsf.layers.initial import as_executed
from dsf.layers.layer import Layer, Memory
from dsf.layers.linear_attention import LinearAttention
from dsf.layers.mamba import Mamba
from dsf.layers.meta_linear_attention import MetaLinearAttention
from dsf.layers.normalised_attention import NormalisedAttention
from dsf.layers.quasi_lstm import QuasiLSTM
from dsf.layers.rglru import RGLRU
from dsf.layers.selective_state_space import SelectiveStateSpace
from dsf.layers.softmax_attention import SoftmaxAttention
from dsf.layers.state_space_duality import StateSpaceDuality
from dsf.layers.zero_sum_attention import ZeroSumAttention
from dsf.layers.zero_sum_softmax_attention import ZeroSumSoftmaxAttention

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
