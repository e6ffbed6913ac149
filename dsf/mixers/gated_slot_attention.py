r"""Gated slot attention: softmax over a fixed number of slots with gated updates.

    K_t = diag(exp(g_t)) K_{t-1} + s_t k_tᵀ        V_t = diag(exp(g_t)) V_{t-1} + s_t v_tᵀ
    o_t = V_tᵀ softmax(K_t q_t)

The softmax depends on queries and keys only, so it is part of C.

Source: Zhang et al. 2024, arXiv:2409.07146.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import slot_system
from dsf.systems.system import System


@mixer
class GatedSlotAttention(KeyedMixer):
    """Attention to slots. No scale is applied: pass a query that is scaled.

    Attributes:
        slot_write: s_t, weight of the token in each slot; usually ``1 - exp(log_decay)``.
        log_decay: g_t, nats per token, at most 0.
    """

    slot_write: Float[Tensor, "*batch time slot"]
    log_decay: Float[Tensor, "*batch time slot"]

    drawn = laws(slot_write=between(0.1, 0.9), log_decay=minus(0.02, 0.8))

    def system(self) -> System:
        return slot_system(
            decay=self.log_decay.exp(), write=self.slot_write, key=self.key, query=self.query
        )
