r"""Gated DeltaNet 2: separate gates for erasing from and for writing to the memory.

    S_t = (I - k_t (e_t ⊙ k_t)ᵀ) diag(exp(g_t)) S_{t-1} + k_t (w_t ⊙ v_t)ᵀ        o_t = S_tᵀ q_t

Source: arXiv:2605.22791. With e_t and w_t the same number everywhere it is KimiDeltaAttention with
that rate.
"""

from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, directions, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.system import System


@mixer
class GatedDeltaNet2(KeyedMixer):
    """The delta rule with an erase gate for every key coordinate, a write gate for every channel.

    Attributes:
        log_decay: g_t, nats per token, at most 0.
        erase_gate: e_t, usually in 0 ... 1, or 0 ... 2 where eigenvalues may be negative.
        write_gate: w_t, a factor on ``value`` before it is mixed; part of the signal.
    """

    log_decay: Float[Tensor, "*batch time key"]
    erase_gate: Float[Tensor, "*batch time key"]
    write_gate: Float[Tensor, "*batch time channel"]

    drawn = laws(
        key=directions,
        log_decay=minus(0.02, 0.5),
        erase_gate=between(0.1, 0.9),
        write_gate=between(0.1, 0.9),
    )

    def system(self) -> System:
        return delta_rule(
            decay=self.log_decay.exp(),
            write=self.key.unsqueeze(-1),
            removal=(self.erase_gate * self.key).unsqueeze(-1),
            read=self.query,
        )

    def signal(self) -> Shaped[Tensor, "*batch time 1 channel"]:
        return (self.write_gate * self.value).unsqueeze(-2)
