"""Trainable layers: projections around one token mixer, ``(batch, time, model)`` to the same."""

from dsf.layers.attention import LocalResidual as LocalResidual
from dsf.layers.layer import Layer as Layer
from dsf.layers.layer import Memory as Memory
from dsf.layers.layer import as_executed as as_executed
from dsf.layers.attention import SoftmaxAttention as SoftmaxAttention
from dsf.layers.attention import LinearAttention as LinearAttention
from dsf.layers.attention import NormalisedAttention as NormalisedAttention
from dsf.layers.attention import InLineAttention as InLineAttention
from dsf.layers.attention import ZeroSumAttention as ZeroSumAttention
from dsf.layers.attention import ZeroSumSoftmaxAttention as ZeroSumSoftmaxAttention
from dsf.layers.recurrent import SelectiveStateSpace as SelectiveStateSpace
from dsf.layers.recurrent import StateSpaceDuality as StateSpaceDuality
from dsf.layers.matrix_memories import GatedLinearAttention as GatedLinearAttention
from dsf.layers.matrix_memories import DeltaNet as DeltaNet
from dsf.layers.matrix_memories import MetaLinearAttention as MetaLinearAttention
from dsf.layers.recurrent import Mamba as Mamba
from dsf.layers.recurrent import QuasiLSTM as QuasiLSTM
from dsf.layers.recurrent import RGLRU as RGLRU
from dsf.runtime.first_use import public_names

ALL: tuple[type[Layer], ...] = tuple(
    each
    for each in globals().values()
    if isinstance(each, type) and issubclass(each, Layer) and each is not Layer
)
"""Every layer, in this order."""

__all__ = ["ALL", *public_names(__name__)]
