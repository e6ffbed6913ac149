r"""minGRU: a GRU whose gate and candidate do not read the state.

    h_t = (1 - z_t) ⊙ h_{t-1} + z_t ⊙ h̃_t        y_t = h_t

Source: Feng et al. 2024, arXiv:2410.01201.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, between, laws, mixer
from dsf.mixers.ingredients.recurrences import channel_systems
from dsf.systems.system import System


@mixer
class MinGRU(ChannelMixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        value: the candidate h̃, the signal that is mixed.
        update: z, the value of the update gate in 0 ... 1 (not its logit): the factor on h̃.
    """

    update: Float[Tensor, "*batch time channel"]

    drawn = laws(update=between(0.05, 0.6))

    def system(self) -> System:
        return channel_systems(decay=1 - self.update, write=self.update)
