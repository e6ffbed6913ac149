r"""HGRN2: HGRN with an outer-product state; the key is one minus the decay.

    S_t = diag(a_t) S_{t-1} + (1 - a_t) v_tᵀ        o_t = S_tᵀ q_t

Source: Qin et al. 2024, arXiv:2404.07904.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, mixer
from dsf.systems.system import System
from dsf.systems.transition import Diagonal


@mixer
class HGRN2(Mixer):
    """Gated linear attention with the key tied to the decay.

    Attributes:
        decay: a_t, a factor per token in 0 ... 1 for every key coordinate.
    """

    query: Float[Tensor, "*batch time key"]
    value: Float[Tensor, "*batch time channel"]
    decay: Float[Tensor, "*batch time key"]

    drawn = laws(decay=between(0.4, 0.98))

    def system(self) -> System:
        A = Diagonal(self.decay)
        return System.from_write_and_read(A, write=1 - self.decay, read=self.query)
