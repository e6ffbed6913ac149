r"""RWKV-7: a delta rule with separate vectors for what is removed and what replaces it.

    S_t = (diag(exp(g_t)) + b_t a_tᵀ) S_{t-1} + k_t v_tᵀ        o_t = S_tᵀ q_t

Source: Peng et al. 2025, arXiv:2503.14456, where a = -κ and b = κ ⊙ rate with κ of length one. With
g_t = 0 it is the identity plus a low rank (IPLR) of the kernel libraries; so is every A_t that they
call diagonal plus low rank (DPLR).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, directions, mixer, normal, uniform
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank


@mixer
class RWKV7(KeyedMixer):
    """Diagonal plus rank one with a decay for every key coordinate.

    Attributes:
        log_decay: g_t, nats per token, at most 0.
        removal: a_t, the vector at which the memory is read; it carries the minus sign.
        replacement: b_t, the vector at which the value read there is added.
    """

    log_decay: Float[Tensor, "*batch time key"]
    removal: Float[Tensor, "*batch time key"]
    replacement: Float[Tensor, "*batch time key"]

    def system(self) -> System:
        A = DiagonalPlusLowRank(
            decay=self.log_decay.exp(),
            left=self.replacement.unsqueeze(-1),
            right=self.removal.unsqueeze(-1),
        )
        return System.from_write_and_read(A, write=self.key, read=self.query)

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "RWKV7":
        direction = directions(rng, 2, steps, 4)
        return cls(
            query=normal(rng, 2, steps, 4),
            key=normal(rng, 2, steps, 4),
            value=normal(rng, 2, steps, 3),
            log_decay=-uniform(rng, 2, steps, 4, low=0.02, high=0.5),
            removal=-direction,
            replacement=direction * uniform(rng, 2, steps, 4, low=0.1, high=0.9),
        )
