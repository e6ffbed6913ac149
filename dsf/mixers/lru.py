r"""The linear recurrent unit: a diagonal recurrence in discrete time, given by radius and phase.

    h_t = λ ⊙ h_{t-1} + sqrt(1 - |λ|²) ⊙ B u_t        y_t = Re(C h_t) + D u_t
    λ = exp(-exp(ν) + i exp(θ))

Source: Orvieto et al. 2023, arXiv:2303.06349.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import between, laws, mixer, normal
from dsf.mixers.ingredients.recurrences import PortMixer
from dsf.systems.system import System


@mixer
class LRU(PortMixer):
    """A system with one port for every input and every output channel.

    Attributes:
        log_radius: ν: the radius exp(-exp(ν)) is always below one.
        log_phase: θ: the phase exp(θ), radians per token.
        feedthrough: D, a factor for every channel or a matrix ``output input``.
    """

    log_radius: Float[Tensor, " state"]
    log_phase: Float[Tensor, " state"]

    drawn = laws(log_radius=between(-3.0, -0.5), log_phase=between(-2.0, 1.0), feedthrough=normal)

    def system(self) -> System:
        fading = self.log_radius.exp()
        decay = torch.polar((-fading).exp(), self.log_phase.exp())
        write = (-torch.expm1(-2 * fading)).sqrt().unsqueeze(-1) * self.write
        return self.sampled(decay, write)
