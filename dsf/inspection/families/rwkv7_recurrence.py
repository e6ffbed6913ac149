"""RWKV-7's recurrence from the parts that a layer computes, under whatever names it stores them.

log decay = -exp(-1/2) σ(decay)      key = k (1 + k_a (rate - 1))
output = output((GroupNorm(scan) + (query · r_k key) value) ⊙ gate)

Source: Peng et al. 2025, arXiv:2503.14456.
"""

import math

from jaxtyping import Float
from torch import Tensor

from dsf.inspection.families.shared import by_head, side_by_side
from dsf.mixers import RWKV7

SLOWEST = -math.exp(-0.5)
"""The log decay lies between this and zero."""

Tokens = Float[Tensor, "sample time model"]


def recurrence(
    *,
    query: Tokens,
    key: Tokens,
    value: Tokens,
    decay: Tokens,
    rate: Tokens,
    key_rate: Float[Tensor, "*ones model"],
    removal: Float[Tensor, "sample head time key"],
) -> RWKV7:
    """The recurrence of all heads.

    Args:
        key: before it is scaled by the rate.
        decay: before its sigmoid.
        rate: of replacement, 0 to 1.
        key_rate: how far the rate scales the key, ``k_a``.
        removal: the key that is removed, of unit length.
    """
    heads = removal.shape[1]
    return RWKV7(
        query=by_head(query, heads),
        key=by_head(key * (1 + key_rate * (rate - 1)), heads),
        value=by_head(value, heads),
        log_decay=SLOWEST * by_head(decay.sigmoid(), heads),
        removal=-removal,
        replacement=removal * by_head(rate, heads),
    )


def own_values(mixer: RWKV7, r_k: Float[Tensor, "head key"]) -> Tokens:
    """What every token adds of its own value: ``(query · r_k key) value``."""
    own = (mixer.query * r_k.unsqueeze(1) * mixer.key).sum(dim=-1, keepdim=True)
    return side_by_side(own * mixer.value)
