r"""S5: one time-invariant diagonal state space that reads and writes all channels at once.

    dh/dt = diag(λ) h + B u        y = Re(C h) + D u        input constant between tokens

Source: Smith, Warrington & Linderman 2022, arXiv:2208.04933.
"""

from jaxtyping import Complex, Float
from torch import Tensor

from dsf.mixers.base import between, laws, mixer, normal, poles
from dsf.mixers.ingredients.recurrences import PortMixer, zero_order_hold
from dsf.runtime.shapes import agree
from dsf.systems.system import System


@mixer
class S5(PortMixer):
    """A system with one port for every input and every output channel.

    Attributes:
        pole: λ, per unit of time, real part below zero. If only one of each conjugate pair is
            given, pass twice the ``read``: nothing is doubled here.
        step: time per token, above zero: one number, or one for every state.
        feedthrough: D, a factor for every channel or a matrix ``output input``.
    """

    pole: Complex[Tensor, " state"]
    step: Float[Tensor, "*one_or_state"]

    drawn = laws(pole=poles, step=between(0.1, 0.7), feedthrough=normal)
    drawn_sizes = laws(**{"output": (2,), "*ports": (2, 3)})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step.ndim:
            agree("S5", "state", step=tuple(self.step.shape), pole=tuple(self.pole.shape))

    def system(self) -> System:
        decay, gain = zero_order_hold(self.pole, self.step)
        return self.sampled(decay, gain.unsqueeze(-1) * self.write)
