"""One file per architecture: its coefficients on one sequence become a system."""

from dsf.mixers.base import Mixer
from dsf.mixers.delta_net import DeltaNet
from dsf.mixers.elman_rnn import ElmanRNN
from dsf.mixers.gated_delta_net import GatedDeltaNet
from dsf.mixers.gru import GRU
from dsf.mixers.lstm import LSTM
from dsf.mixers.scalar_gated_attention import ScalarGatedAttention
from dsf.mixers.selective_state_space import SelectiveStateSpace
from dsf.mixers.short_convolution import ShortConvolution
from dsf.mixers.softmax_attention import SoftmaxAttention
from dsf.mixers.state_space_duality import StateSpaceDuality

ALL: tuple[type[Mixer], ...] = (
    SoftmaxAttention,
    ScalarGatedAttention,
    DeltaNet,
    GatedDeltaNet,
    SelectiveStateSpace,
    StateSpaceDuality,
    ShortConvolution,
    LSTM,
    GRU,
    ElmanRNN,
)

__all__ = ["ALL", "Mixer", *(mixer.__name__ for mixer in ALL)]
