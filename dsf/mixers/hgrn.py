r"""HGRN: a gated recurrence whose input gate is one minus its forget gate.

    h_t = a_t ⊙ h_{t-1} + (1 - a_t) ⊙ v_t        y_t = h_t

Source: Qin, Yang & Zhong 2023, arXiv:2311.04823.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, between, laws, mixer
from dsf.mixers.ingredients.recurrences import channel_systems
from dsf.systems.system import System


@mixer
class HGRN(ChannelMixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        decay: a_t, a factor per token in 0 ... 1.
    """

    decay: Float[Tensor, "*batch time channel"]

    drawn = laws(decay=between(0.4, 0.98))

    def system(self) -> System:
        return channel_systems(decay=self.decay, write=1 - self.decay)
