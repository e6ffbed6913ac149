"""Mixers: published architectures as systems, one file for each.

The imports are in the order of the catalogue.
"""

from dsf.mixers import ingredients as ingredients
from dsf.mixers.base import Mixer as Mixer
from dsf.mixers.softmax_attention import SoftmaxAttention as SoftmaxAttention
from dsf.mixers.forgetting_attention import ForgettingAttention as ForgettingAttention
from dsf.mixers.path_attention import PathAttention as PathAttention
from dsf.mixers.stick_breaking_attention import StickBreakingAttention as StickBreakingAttention
from dsf.mixers.delta_former import DeltaFormer as DeltaFormer
from dsf.mixers.linear_attention import LinearAttention as LinearAttention
from dsf.mixers.normalised_attention import NormalisedAttention as NormalisedAttention
from dsf.mixers.in_line_attention import InLineAttention as InLineAttention
from dsf.mixers.zero_sum_attention import ZeroSumAttention as ZeroSumAttention
from dsf.mixers.zero_sum_softmax_attention import ZeroSumSoftmaxAttention as ZeroSumSoftmaxAttention
from dsf.mixers.meta_linear_attention import MetaLinearAttention as MetaLinearAttention
from dsf.mixers.retention import Retention as Retention
from dsf.mixers.scalar_gated_attention import ScalarGatedAttention as ScalarGatedAttention
from dsf.mixers.log_linear_attention import LogLinearAttention as LogLinearAttention
from dsf.mixers.gated_linear_attention import GatedLinearAttention as GatedLinearAttention
from dsf.mixers.hgrn import HGRN as HGRN
from dsf.mixers.hgrn2 import HGRN2 as HGRN2
from dsf.mixers.gated_slot_attention import GatedSlotAttention as GatedSlotAttention
from dsf.mixers.bounded_memory_attention import BoundedMemoryAttention as BoundedMemoryAttention
from dsf.mixers.mesa_net import MesaNet as MesaNet
from dsf.mixers.mlstm import MLSTM as MLSTM
from dsf.mixers.rwkv4 import RWKV4 as RWKV4
from dsf.mixers.rwkv6 import RWKV6 as RWKV6
from dsf.mixers.rwkv7 import RWKV7 as RWKV7
from dsf.mixers.delta_net import DeltaNet as DeltaNet
from dsf.mixers.gated_delta_net import GatedDeltaNet as GatedDeltaNet
from dsf.mixers.comba import Comba as Comba
from dsf.mixers.kimi_delta_attention import KimiDeltaAttention as KimiDeltaAttention
from dsf.mixers.gated_delta_net2 import GatedDeltaNet2 as GatedDeltaNet2
from dsf.mixers.preconditioned_delta_net import PreconditionedDeltaNet as PreconditionedDeltaNet
from dsf.mixers.momentum_delta_net import MomentumDeltaNet as MomentumDeltaNet
from dsf.mixers.gated_delta_product import GatedDeltaProduct as GatedDeltaProduct
from dsf.mixers.s4 import S4 as S4
from dsf.mixers.diagonal_state_space import DiagonalStateSpace as DiagonalStateSpace
from dsf.mixers.s5 import S5 as S5
from dsf.mixers.lru import LRU as LRU
from dsf.mixers.selective_state_space import SelectiveStateSpace as SelectiveStateSpace
from dsf.mixers.state_space_duality import StateSpaceDuality as StateSpaceDuality
from dsf.mixers.mamba3 import Mamba3 as Mamba3
from dsf.mixers.short_convolution import ShortConvolution as ShortConvolution
from dsf.mixers.rglru import RGLRU as RGLRU
from dsf.mixers.quasi_lstm import QuasiLSTM as QuasiLSTM
from dsf.mixers.min_gru import MinGRU as MinGRU
from dsf.mixers.min_lstm import MinLSTM as MinLSTM
from dsf.mixers.lstm import LSTM as LSTM
from dsf.mixers.gru import GRU as GRU
from dsf.mixers.elman_rnn import ElmanRNN as ElmanRNN
from dsf.runtime.first_use import public_names

ALL: tuple[type[Mixer], ...] = tuple(
    each for each in globals().values() if isinstance(each, type) and each is not Mixer
)
"""Every mixer, in this order."""

__all__ = ["ALL", *public_names(__name__)]
