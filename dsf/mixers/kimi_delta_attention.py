r"""Kimi delta attention: a decay for every key coordinate, then the delta rule.

    S_t = (I - β_t k_t k_tᵀ) diag(exp(g_t)) S_{t-1} + β_t k_t v_tᵀ        o_t = S_tᵀ q_t

The decay is applied before the memory is read at the key; in the other order the results differ.

Source: Kimi Team 2025, arXiv:2510.26692. With g_t the same for all coordinates it is GatedDeltaNet.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, directions, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.system import System


@mixer
class KimiDeltaAttention(KeyedMixer):
    """The delta rule with a decay for every key coordinate.

    Attributes:
        rate: β_t, write strength; 0 writes and erases nothing.
        log_decay: g_t, nats per token, at most 0.
        initial: the state before the first token; zero when absent.
    """

    rate: Float[Tensor, "*batch time"]
    log_decay: Float[Tensor, "*batch time key"]
    initial: Float[Tensor, "*batch key channel"] | None = None

    drawn = laws(key=directions, rate=between(0.2, 1.8), log_decay=minus(0.02, 0.5))

    def system(self) -> System:
        key = self.key.unsqueeze(-1)
        return delta_rule(
            decay=self.log_decay.exp(),
            write=self.rate[..., None, None] * key,
            removal=key,
            read=self.query,
            initial=self.initial,
        )
