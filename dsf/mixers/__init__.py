"""Mixers: published architectures as systems, one file for each."""

from dsf.mixers import ingredients
from dsf.mixers.base import Mixer
from dsf.mixers.bounded_memory_attention import BoundedMemoryAttention
from dsf.mixers.comba import Comba
from dsf.mixers.delta_former import DeltaFormer
from dsf.mixers.delta_net import DeltaNet
from dsf.mixers.diagonal_state_space import DiagonalStateSpace
from dsf.mixers.elman_rnn import ElmanRNN
from dsf.mixers.forgetting_attention import ForgettingAttention
from dsf.mixers.gated_delta_net import GatedDeltaNet
from dsf.mixers.gated_delta_net2 import GatedDeltaNet2
from dsf.mixers.gated_delta_product import GatedDeltaProduct
from dsf.mixers.gated_linear_attention import GatedLinearAttention
from dsf.mixers.gated_slot_attention import GatedSlotAttention
from dsf.mixers.gru import GRU
from dsf.mixers.hgrn import HGRN
from dsf.mixers.hgrn2 import HGRN2
from dsf.mixers.in_line_attention import InLineAttention
from dsf.mixers.kimi_delta_attention import KimiDeltaAttention
from dsf.mixers.linear_attention import LinearAttention
from dsf.mixers.log_linear_attention import LogLinearAttention
from dsf.mixers.lru import LRU
from dsf.mixers.lstm import LSTM
from dsf.mixers.mamba3 import Mamba3
from dsf.mixers.mesa_net import MesaNet
from dsf.mixers.meta_linear_attention import MetaLinearAttention
from dsf.mixers.min_gru import MinGRU
from dsf.mixers.min_lstm import MinLSTM
from dsf.mixers.mlstm import MLSTM
from dsf.mixers.momentum_delta_net import MomentumDeltaNet
from dsf.mixers.normalised_attention import NormalisedAttention
from dsf.mixers.path_attention import PathAttention
from dsf.mixers.preconditioned_delta_net import PreconditionedDeltaNet
from dsf.mixers.quasi_lstm import QuasiLSTM
from dsf.mixers.retention import Retention
from dsf.mixers.rglru import RGLRU
from dsf.mixers.rwkv4 import RWKV4
from dsf.mixers.rwkv6 import RWKV6
from dsf.mixers.rwkv7 import RWKV7
from dsf.mixers.s4 import S4
from dsf.mixers.s5 import S5
from dsf.mixers.scalar_gated_attention import ScalarGatedAttention
from dsf.mixers.selective_state_space import SelectiveStateSpace
from dsf.mixers.short_convolution import ShortConvolution
from dsf.mixers.softmax_attention import SoftmaxAttention
from dsf.mixers.state_space_duality import StateSpaceDuality
from dsf.mixers.stick_breaking_attention import StickBreakingAttention
from dsf.mixers.zero_sum_attention import ZeroSumAttention
from dsf.mixers.zero_sum_softmax_attention import ZeroSumSoftmaxAttention

ALL: tuple[type[Mixer], ...] = (
    SoftmaxAttention,
    ForgettingAttention,
    PathAttention,
    StickBreakingAttention,
    DeltaFormer,
    LinearAttention,
    NormalisedAttention,
    InLineAttention,
    ZeroSumAttention,
    ZeroSumSoftmaxAttention,
    MetaLinearAttention,
    Retention,
    ScalarGatedAttention,
    LogLinearAttention,
    GatedLinearAttention,
    HGRN,
    HGRN2,
    GatedSlotAttention,
    BoundedMemoryAttention,
    MesaNet,
    MLSTM,
    RWKV4,
    RWKV6,
    RWKV7,
    DeltaNet,
    GatedDeltaNet,
    Comba,
    KimiDeltaAttention,
    GatedDeltaNet2,
    PreconditionedDeltaNet,
    MomentumDeltaNet,
    GatedDeltaProduct,
    S4,
    DiagonalStateSpace,
    S5,
    LRU,
    SelectiveStateSpace,
    StateSpaceDuality,
    Mamba3,
    ShortConvolution,
    RGLRU,
    QuasiLSTM,
    MinGRU,
    MinLSTM,
    LSTM,
    GRU,
    ElmanRNN,
)

__all__ = ["ALL", "Mixer", "ingredients", *(mixer.__name__ for mixer in ALL)]
