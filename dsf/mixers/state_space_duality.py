r"""State-space duality (Mamba-2): a state space whose diagonal is one number for each head.

    h_t = exp(Δ_t a) h_{t-1} + Δ_t b_t x_tᵀ        y_t = h_tᵀ c_t + d x_t        for every head

Heads share write and read vectors in groups: of H heads and G groups, head h uses group
h // (H / G), neighbours together.

Source: Dao & Gu 2024, arXiv:2405.21060.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, minus, mixer, normal
from dsf.runtime.shapes import ShapeError
from dsf.systems.coefficient import SampledWrite
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity


@mixer
class StateSpaceDuality(Mixer):
    """Mamba-2's scan. System batch: ``*batch head``.

    Attributes:
        value: x, the signal that is mixed.
        step: Δ > 0, time per token.
        pole: a, per unit of time, below zero.
        write, read: shared by the heads of one group.
        feedthrough: one factor per head, added as D.
        initial: the state before the first token; zero when absent.

    Raises:
        ShapeError: if the number of heads is not a multiple of the number of groups.
    """

    value: Float[Tensor, "*batch head time channel"]
    step: Float[Tensor, "*batch head time"]
    pole: Float[Tensor, " head"]
    write: Float[Tensor, "*batch group time state"]
    read: Float[Tensor, "*batch group time state"]
    feedthrough: Float[Tensor, " head"] | None = None
    initial: Float[Tensor, "*batch head state channel"] | None = None

    drawn = laws(step=between(0.05, 1.0), pole=minus(0.1, 2.0), feedthrough=normal)
    drawn_sizes = laws(head=(4,), group=(2,), state=(3,))

    def __post_init__(self) -> None:
        super().__post_init__()
        heads, groups = self.value.shape[-3], self.write.shape[-3]
        if groups == 0 or heads % groups:
            raise ShapeError(
                f"StateSpaceDuality: every group of 'write' and 'read' must have the same number "
                f"of heads, but there are {heads} heads and {groups} groups. Repeat the groups "
                f"until their number divides that of the heads."
            )

    def system(self) -> System:
        decay = (self.step * self.pole.unsqueeze(-1)).exp()
        D = None
        if self.feedthrough is not None:
            D = self.feedthrough[..., None, None, None].expand(*self.step.shape, 1, 1)
        return System(
            A=ScaledIdentity(decay, self.write.shape[-1]),
            B=SampledWrite(self.step, self._for_heads(self.write)),
            C=self._for_heads(self.read).unsqueeze(-2),
            D=D,
            initial=self.initial,
        )

    def _for_heads(self, part: Tensor) -> Tensor:
        """The vectors of every head's group; without a copy where there is one group."""
        *batch, groups, steps, states = part.shape
        served = self.value.shape[-3] // groups
        return part.unsqueeze(-3).expand(*batch, groups, served, steps, states).flatten(-4, -3)
