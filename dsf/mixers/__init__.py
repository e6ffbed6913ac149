"""One file per architecture: its coefficients on one sequence become a system."""

from dsf.mixers.base import Mixer
from dsf.mixers.delta_net import DeltaNet
from dsf.mixers.selective_state_space import SelectiveStateSpace
from dsf.mixers.softmax_attention import SoftmaxAttention

ALL: tuple[type[Mixer], ...] = (
    SoftmaxAttention,
    DeltaNet,
    SelectiveStateSpace,
)

__all__ = ["ALL", "Mixer", *(mixer.__name__ for mixer in ALL)]
