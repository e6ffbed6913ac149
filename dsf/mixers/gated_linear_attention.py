r"""Gated linear attention: every key coordinate has its own data-dependent decay.

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_tᵀ        o_t = S_tᵀ q_t

Source: Yang et al. 2023, arXiv:2312.06635.
"""

from jaxtyping import Inexact
from torch import Tensor

from dsf.mixers.base import ComplexKeyedMixer, laws, minus, mixer
from dsf.systems.system import System
from dsf.systems.transition import Diagonal


@mixer
class GatedLinearAttention(ComplexKeyedMixer):
    """Linear attention with a decay for every key coordinate.

    Attributes:
        log_decay: g_t, nats per token, at most 0 for a decay that does not grow.
    """

    log_decay: Inexact[Tensor, "*batch time key"]

    drawn = laws(log_decay=minus(0.02, 0.8))

    def system(self) -> System:
        A = Diagonal(self.log_decay.exp())
        return System.from_write_and_read(A, write=self.key, read=self.query)
