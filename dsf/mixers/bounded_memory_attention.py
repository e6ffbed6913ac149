r"""Attention with bounded-memory control (ABC): softmax over slots that store weighted averages.

    w_tm(j) = exp(s_jm) / Σ_{i<=t} exp(s_im)        K_tm, V_tm = Σ_j w_tm(j) k_j, Σ_j w_tm(j) v_j
    o_t = Σ_m softmax_m(K_tm.q_t) V_tm

With z_t = log Σ_{i<=t} exp(s_i) the averages are made by A_t = diag(exp(z_{t-1} - z_t)) and
B_t = exp(s_t - z_t). Rows sum to one.

Source: Peng et al. 2021, arXiv:2110.02488.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, mixer
from dsf.mixers.ingredients.matrix_memories import slot_system
from dsf.systems.system import System


@mixer
class BoundedMemoryAttention(KeyedMixer):
    """Attention to slots that average the past. No scale is applied: pass a query that is scaled.

    Attributes:
        slot_logit: s_t, the logarithm of the weight that each slot gives to the token; finite.
    """

    slot_logit: Float[Tensor, "*batch time slot"]

    def system(self) -> System:
        total = self.slot_logit.logcumsumexp(dim=-2)
        kept = (total[..., :-1, :] - total[..., 1:, :]).exp()
        return slot_system(
            decay=torch.cat([torch.ones_like(total[..., :1, :]), kept], dim=-2),
            write=(self.slot_logit - total).exp(),
            key=self.key,
            query=self.query,
        )
