r"""Forgetting attention: softmax attention with log decays of the tokens between in its logits.

    a_ij = softmax_j(scale q_i.k_j + Σ_{s=j+1..i} g_s)        o_i = Σ_{j<=i} a_ij v_j

No recurrence with a state of fixed size has these weights; the system is an attention cache.

Source: Lin et al. 2025, arXiv:2503.02130.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, laws, minus, mixer, spread
from dsf.systems.composite import SoftmaxRows, cache_system
from dsf.systems.system import System


@mixer
class ForgettingAttention(KeyedMixer):
    """Causal softmax attention with a forget gate for every token.

    Attributes:
        log_decay: g_s, nats per token, at most 0; ``-inf`` cuts off everything before the token.
        scale: factor on q.k; ``key ** -0.5`` when absent.
    """

    log_decay: Float[Tensor, "*batch time"]
    scale: float | None = None

    drawn = laws(query=spread, log_decay=minus(0.02, 0.8), scale=0.7)

    def system(self) -> System:
        return cache_system(SoftmaxRows.of(self, causal=True))
