r"""S4D: a time-invariant diagonal state space with one state for each conjugate pair.

    dh/dt = diag(λ) h + b u        y = Re(2 c.h) + d u

Source: Gu et al. 2022, arXiv:2206.11893.
"""

from jaxtyping import Complex, Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, mixer, normal, poles
from dsf.mixers.ingredients.recurrences import Discretisation, zero_order_hold
from dsf.systems.system import System
from dsf.systems.transition import Diagonal


@mixer
class DiagonalStateSpace(Mixer):
    """One state space for every batch entry; the channel columns of ``value`` share it.

    Attributes:
        pole: λ, half of the spectrum, per unit of time, real part below zero.
        write, read: b and c; the other half of the spectrum enters as the factor 2.
        step: time per token, above zero.
        feedthrough: d.
        discretise: a rule of :mod:`dsf.mixers.ingredients.recurrences`.
    """

    value: Float[Tensor, "*batch time channel"]
    pole: Complex[Tensor, "*batch state"]
    write: Complex[Tensor, "*batch state"]
    read: Complex[Tensor, "*batch state"]
    step: Float[Tensor, "*batch"]
    feedthrough: Float[Tensor, "*batch"] | None = None
    discretise: Discretisation = zero_order_hold

    drawn = laws(pole=poles, step=between(0.1, 0.7), feedthrough=normal)

    def system(self) -> System:
        steps = self.value.shape[-2]
        decay, gain = self.discretise(self.pole, self.step.unsqueeze(-1))
        decay, write, read = (
            part.unsqueeze(-2).expand(*part.shape[:-1], steps, -1)
            for part in (decay, gain * self.write, 2 * self.read)
        )
        D = None
        if self.feedthrough is not None:
            D = self.feedthrough.unsqueeze(-1).expand(*self.step.shape, steps)
        return System.from_write_and_read(
            Diagonal(decay), write, read, feedthrough=D, takes_real_part=True
        )
