r"""Comba: a gated delta rule that erases at another vector than it writes to.

    S_t = exp(g_t) (I - β_t k_t p_tᵀ) S_{t-1} + β_t k_t v_tᵀ        o_t = S_tᵀ q_t

Source: Hu et al. 2025, arXiv:2506.02475. With p_t = k_t it is the gated DeltaNet.
"""

from jaxtyping import Inexact
from torch import Tensor

from dsf.mixers.base import Mixer, between, directions, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.system import System


@mixer
class Comba(Mixer):
    """The gated delta rule with a removal vector of its own.

    Attributes:
        removal: p_t, the vector at which the memory is read and erased.
        rate: β_t, write strength; 0 writes and erases nothing.
        log_decay: g_t, nats per token, at most 0 for a decay that does not grow.
    """

    query: Inexact[Tensor, "*batch time key"]
    key: Inexact[Tensor, "*batch time key"]
    removal: Inexact[Tensor, "*batch time key"]
    value: Inexact[Tensor, "*batch time channel"]
    rate: Inexact[Tensor, "*batch time"]
    log_decay: Inexact[Tensor, "*batch time"]

    drawn = laws(
        key=directions,
        removal=directions,
        rate=between(0.2, 0.9),
        log_decay=minus(0.02, 0.5),
    )

    def system(self) -> System:
        return delta_rule(
            decay=self.log_decay.exp().unsqueeze(-1).expand_as(self.key),
            write=(self.rate.unsqueeze(-1) * self.key).unsqueeze(-1),
            removal=self.removal.unsqueeze(-1),
            read=self.query,
        )
