r"""The real-gated linear recurrent unit of Griffin and RecurrentGemma.

    h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ g_t ⊙ x_t        y_t = h_t

Where a document starts, a_t counts as zero: the state is erased, and the input factor is one.

Source: De et al. 2024, arXiv:2402.19427.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, between, laws, mixer, uniform
from dsf.mixers.ingredients.recurrences import channel_systems
from dsf.systems.system import System


@mixer
class RGLRU(ChannelMixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        value: x.
        decay: a_t, a factor per token in 0 ... 1.
        input_gate: g_t.
        reset: whether the state is erased before the token.
    """

    decay: Float[Tensor, "*batch time channel"]
    input_gate: Float[Tensor, "*batch time channel"]
    reset: Bool[Tensor, "*batch time"] | None = None

    drawn = laws(
        decay=between(0.4, 0.95),
        input_gate=between(0.1, 0.9),
        reset=lambda rng, *size: uniform(rng, *size, low=-1.0, high=5.0) < 0,
    )

    def system(self) -> System:
        decay = self.decay
        if self.reset is not None:
            decay = decay.masked_fill(self.reset.unsqueeze(-1), 0)
        write = ((1 - decay) * (1 + decay)).sqrt() * self.input_gate
        return channel_systems(decay=decay, write=write)
