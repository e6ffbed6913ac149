r"""Gated DeltaNet: decay the memory, erase what is stored at the key, write the new value.

    S_t = exp(g_t) (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ        o_t = S_tᵀ q_t

Source: Yang et al. 2024, arXiv:2412.06464. With g_t = 0 it is DeltaNet.
"""

from jaxtyping import Inexact
from torch import Tensor

from dsf.mixers.base import ComplexKeyedMixer, between, directions, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.system import System


@mixer
class GatedDeltaNet(ComplexKeyedMixer):
    """The delta rule with one decay for every token.

    Attributes:
        rate: β_t, write strength; 0 writes and erases nothing.
        log_decay: g_t, nats per token, at most 0 for a decay that does not grow.
        initial: the state before the first token; zero when absent.
    """

    rate: Inexact[Tensor, "*batch time"]
    log_decay: Inexact[Tensor, "*batch time"]
    initial: Inexact[Tensor, "*batch key channel"] | None = None

    drawn = laws(key=directions, rate=between(0.2, 1.8), log_decay=minus(0.02, 0.5))

    def system(self) -> System:
        key = self.key.unsqueeze(-1)
        return delta_rule(
            decay=self.log_decay.exp().unsqueeze(-1).expand_as(self.key),
            write=self.rate[..., None, None] * key,
            removal=key,
            read=self.query,
            initial=self.initial,
        )
