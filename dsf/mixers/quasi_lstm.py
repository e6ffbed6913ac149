r"""The quasi-LSTM: an LSTM whose gates do not read the state, hence linear in what it mixes.

    h_t = f_t ⊙ h_{t-1} + i_t ⊙ x_t        y_t = o_t ⊙ h_t

Source: Sieber et al. 2024, arXiv:2405.15731; QRNN (fo-pooling) of Bradbury et al. 2016,
arXiv:1611.01576.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, between, laws, mixer
from dsf.mixers.ingredients.recurrences import channel_systems
from dsf.systems.system import System


@mixer
class QuasiLSTM(ChannelMixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        value: x, the signal that is mixed.
        forget, input, output: the values of the gates, usually in 0 ... 1, not their logits.
    """

    forget: Float[Tensor, "*batch time channel"]
    input: Float[Tensor, "*batch time channel"]
    output: Float[Tensor, "*batch time channel"]

    drawn = laws(
        forget=between(0.5, 0.98),
        input=between(0.1, 0.9),
        output=between(0.1, 0.9),
    )

    def system(self) -> System:
        return channel_systems(decay=self.forget, write=self.input, read=self.output)
