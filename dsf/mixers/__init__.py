"""One file per architecture: its coefficients on one sequence become a system."""

from dsf.mixers.base import Mixer
from dsf.mixers.delta_net import DeltaNet
from dsf.mixers.diagonal_state_space import DiagonalStateSpace
from dsf.mixers.elman_rnn import ElmanRNN
from dsf.mixers.gated_delta_net import GatedDeltaNet
from dsf.mixers.gated_linear_attention import GatedLinearAttention
from dsf.mixers.gru import GRU
from dsf.mixers.linear_attention import LinearAttention
from dsf.mixers.lru import LRU
from dsf.mixers.lstm import LSTM
from dsf.mixers.normalised_attention import NormalisedAttention
from dsf.mixers.quasi_lstm import QuasiLSTM
from dsf.mixers.retention import Retention
from dsf.mixers.s4 import S4
from dsf.mixers.s5 import S5
from dsf.mixers.scalar_gated_attention import ScalarGatedAttention
from dsf.mixers.selective_state_space import SelectiveStateSpace
from dsf.mixers.short_convolution import ShortConvolution
from dsf.mixers.softmax_attention import SoftmaxAttention
from dsf.mixers.state_space_duality import StateSpaceDuality

ALL: tuple[type[Mixer], ...] = (
    SoftmaxAttention,
    LinearAttention,
    NormalisedAttention,
    Retention,
    ScalarGatedAttention,
    GatedLinearAttention,
    DeltaNet,
    GatedDeltaNet,
    S4,
    DiagonalStateSpace,
    S5,
    LRU,
    SelectiveStateSpace,
    StateSpaceDuality,
    ShortConvolution,
    QuasiLSTM,
    LSTM,
    GRU,
    ElmanRNN,
)

__all__ = ["ALL", "Mixer", *(mixer.__name__ for mixer in ALL)]
