r"""RWKV-6: gated linear attention that reads before the update, with a current-token bonus.

    o_t = S_{t-1}ᵀ q_t + q_t.(u ⊙ k_t) v_t        S_t = diag(exp(g_t)) S_{t-1} + k_t v_tᵀ

Source: Peng et al. 2024, arXiv:2404.05892.
"""

from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, laws, minus, mixer
from dsf.systems.system import System
from dsf.systems.transition import Diagonal


@mixer
class RWKV6(KeyedMixer):
    """The mixer of Finch.

    Attributes:
        log_decay: g_t, nats per token, at most 0.
        bonus: u, factors on the current token's key.
    """

    log_decay: Float[Tensor, "*batch time key"]
    bonus: Float[Tensor, "*batch key"]

    drawn = laws(log_decay=minus(0.02, 0.8))

    def system(self) -> System:
        return System.from_write_and_read(
            Diagonal(self.log_decay.exp()),
            write=self.key,
            read=self.query,
            feedthrough=(self.query * self.bonus.unsqueeze(-2) * self.key).sum(dim=-1),
            reads_before_update=True,
        )
