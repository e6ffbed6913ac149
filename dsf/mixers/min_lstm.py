r"""minLSTM: an LSTM whose gates and candidate do not read the state.

    h_t = f'_t ⊙ h_{t-1} + i'_t ⊙ h̃_t        f' = f / (f + i)        i' = i / (f + i)

Source: Feng et al. 2024, arXiv:2410.01201.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, between, laws, mixer
from dsf.mixers.ingredients.recurrences import channel_systems
from dsf.systems.system import System


@mixer
class MinLSTM(ChannelMixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        value: the candidate h̃, the signal that is mixed.
        forget, input: the values of the gates in 0 ... 1, before they are divided by their sum.
        normalised: divide them by their sum; otherwise they apply as they are.
    """

    forget: Float[Tensor, "*batch time channel"]
    input: Float[Tensor, "*batch time channel"]
    normalised: bool = True

    drawn = laws(forget=between(0.4, 0.95), input=between(0.1, 0.6))

    def system(self) -> System:
        forget, written = self.forget, self.input
        if self.normalised:
            forget, written = (gate / (self.forget + self.input) for gate in (forget, written))
        return channel_systems(decay=forget, write=written)
