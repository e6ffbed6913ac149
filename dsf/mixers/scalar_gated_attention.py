r"""Scalar-gated linear attention: all states of a head share one data-dependent decay.

    S_t = exp(g_t) S_{t-1} + k_t v_tᵀ        o_t = S_tᵀ q_t

The core that Mamba-2, simple GLA and mLSTM share; with a constant decay it is retention.

Source: Yang et al. 2023, arXiv:2312.06635 (one decay a head); Dao & Gu 2024, arXiv:2405.21060.
"""

from jaxtyping import Inexact
from torch import Tensor

from dsf.mixers.base import ComplexKeyedMixer, laws, minus, mixer
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity


@mixer
class ScalarGatedAttention(ComplexKeyedMixer):
    """Linear attention with one decay for every token.

    Attributes:
        log_decay: g_t, nats per token, at most 0 for a decay that does not grow.
    """

    log_decay: Inexact[Tensor, "*batch time"]

    drawn = laws(log_decay=minus(0.02, 0.8))

    def system(self) -> System:
        A = ScaledIdentity(self.log_decay.exp(), self.key.shape[-1])
        return System.from_write_and_read(A, write=self.key, read=self.query)
