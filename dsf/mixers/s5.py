r"""S5: one time-invariant diagonal state space that reads and writes all channels at once.

    dh/dt = diag(λ) h + B u        y = Re(C h) + D u        input constant between tokens

Source: Smith, Warrington & Linderman 2022, arXiv:2208.04933.
"""

from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer, between, complex_normal, laws, mixer, normal, poles
from dsf.mixers.ingredients.recurrences import port_system, zero_order_hold
from dsf.runtime.shapes import agree
from dsf.systems.system import System


@mixer
class S5(Mixer):
    """A system with one port for every input and every output channel.

    Attributes:
        pole: λ, per unit of time, real part below zero. If only one of each conjugate pair is
            given, pass twice the ``read``: nothing is doubled here.
        step: time per token, above zero: one number, or one for every state.
        feedthrough: D, a factor for every channel or a matrix ``output input``.
    """

    value: Float[Tensor, "*batch time input"]
    pole: Complex[Tensor, " state"]
    write: Complex[Tensor, "state input"]
    read: Complex[Tensor, "output state"]
    step: Float[Tensor, "*one_or_state"]
    feedthrough: Float[Tensor, "*ports"] | None = None

    drawn = laws(
        pole=poles,
        write=complex_normal,
        read=complex_normal,
        step=between(0.1, 0.7),
        feedthrough=normal,
    )
    drawn_sizes = laws(**{"output": (2,), "*ports": (2, 3)})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step.ndim:
            agree("S5", "state", step=tuple(self.step.shape), pole=tuple(self.pole.shape))

    def system(self) -> System:
        decay, gain = zero_order_hold(self.pole, self.step)
        write = gain.unsqueeze(-1) * self.write
        return port_system("S5", self.value, decay, write, self.read, self.feedthrough)

    def signal(self) -> Shaped[Tensor, "*batch time input 1"]:
        return self.value.unsqueeze(-1)
