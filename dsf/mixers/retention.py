r"""Retention: linear attention with one constant decay.

    S_t = γ S_{t-1} + k_t v_tᵀ        o_t = S_tᵀ q_t

Source: Sun et al. 2023, arXiv:2307.08621.
"""

from dataclasses import replace

from jaxtyping import Inexact
from torch import Tensor

from dsf.mixers.base import ComplexKeyedMixer, between, laws, mixer
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity


@mixer
class Retention(ComplexKeyedMixer):
    """Attention with a constant decay.

    Attributes:
        decay: γ, a factor per token, one for every batch entry (head). A complex decay also rotates
            the state and makes the output complex.
        initial: the state before the first token; zero when absent.
    """

    decay: Inexact[Tensor, "*batch"]
    initial: Inexact[Tensor, "*batch key channel"] | None = None

    drawn = laws(decay=between(0.6, 0.98))

    def system(self) -> System:
        *batch, steps, states = self.key.shape
        A = ScaledIdentity(self.decay.unsqueeze(-1).expand(*batch, steps), states)
        system = System.from_write_and_read(A, write=self.key, read=self.query)
        return replace(system, initial=self.initial)
