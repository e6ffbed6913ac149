r"""The selective state space of Mamba (S6): step, write and read vectors depend on the input.

    h_t = exp(Δ_t a) h_{t-1} + Δ_t b_t x_t        y_t = c_tᵀ h_t + d x_t        for every channel

The diagonal is sampled exactly, the input by Euler's rule.

Source: Gu & Dao 2023, arXiv:2312.00752.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import ChannelMixer, between, laws, minus, mixer, normal
from dsf.runtime.shapes import agree, has_axes
from dsf.systems.coefficient import SampledWrite
from dsf.systems.system import System
from dsf.systems.transition import SampledDiagonal


@mixer
class SelectiveStateSpace(ChannelMixer):
    """Mamba's scan. Every channel is a system of its own: system batch ``*batch channel``.

    Attributes:
        value: x, the signal that is mixed.
        step: Δ > 0, time per token.
        pole: the continuous-time diagonal, below zero: ``channel state``, or with leading axes that
            end in those of the batch.
        write, read: shared by all channels.
        feedthrough: one factor per channel, added as D.
        initial: the state before the first token; zero when absent.
    """

    step: Float[Tensor, "*batch time channel"]
    pole: Float[Tensor, "*leading channel state"]
    write: Float[Tensor, "*batch time state"]
    read: Float[Tensor, "*batch time state"]
    feedthrough: Float[Tensor, "*leading channel"] | None = None
    initial: Float[Tensor, "*batch channel state 1"] | None = None

    drawn = laws(step=between(0.05, 1.0), pole=minus(0.1, 2.0), feedthrough=normal)

    def __post_init__(self) -> None:
        super().__post_init__()
        leading, batch = self.pole.shape[:-2], self.value.shape[:-2]
        has_axes("SelectiveStateSpace", "pole", tuple(self.pole.shape), "*batch channel state")
        if leading:
            agree("SelectiveStateSpace", "batch", value=batch[-len(leading) :], pole=leading)

    def system(self) -> System:
        *batch, steps, channels = self.value.shape
        states = self.pole.shape[-1]
        size = (*batch, channels, steps, states)
        D = None
        if self.feedthrough is not None:
            D = self.feedthrough[..., None, None, None].expand(*batch, channels, steps, 1, 1)
        return System(
            A=SampledDiagonal(self.step.mT, self.pole.expand(*batch, channels, states)),
            B=SampledWrite(self.step.mT, self.write.unsqueeze(-3).expand(size)),
            C=self.read.unsqueeze(-3).expand(size).unsqueeze(-2),
            D=D,
            initial=self.initial,
        )
