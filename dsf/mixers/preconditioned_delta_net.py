r"""Preconditioned DeltaNet: key entries are scaled down where past keys were large.

    a_t = exp(c_t) a_{t-1} + μ_t k_t²        r_t = log(a_t + ε) - ρ
    p_t = reach^(-r_t / (1 + |r_t|)) k_t
    S_t = (I - β_t p_t k_tᵀ) diag(exp(g_t)) S_{t-1} + β_t p_t v_tᵀ        o_t = S_tᵀ q_t

a_t is the decayed energy of every key coordinate, the diagonal of a curvature. It depends on keys
only, so the rule stays linear in the values.

Source: arXiv:2604.21100. With g_t the same for all coordinates it is the preconditioned gated
DeltaNet, otherwise preconditioned Kimi delta attention.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, directions, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.coefficient import on_stored
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, recurrence


@mixer
class PreconditionedDeltaNet(KeyedMixer):
    """The delta rule with write vectors rescaled by the energy of past keys.

    Attributes:
        rate: β_t, write strength; 0 writes and erases nothing.
        log_decay: g_t, nats per token, at most 0. One that all coordinates share costs less when
            it is expanded along ``key`` rather than copied.
        curvature_rate: μ_t, weight of the token in a_t.
        curvature_log_decay: c_t, nats per token, at most 0.
        log_curvature: ρ, the logarithm of the energy at which a coordinate is not rescaled; -0.2
            before training.
        reach: a coordinate is stretched or shortened by a factor below this.
        epsilon: ε, added to a_t.
    """

    rate: Float[Tensor, "*batch time"]
    log_decay: Float[Tensor, "*batch time key"]
    curvature_rate: Float[Tensor, "*batch time"]
    curvature_log_decay: Float[Tensor, "*batch time"]
    log_curvature: Float[Tensor, "*batch"]
    reach: float = 1.5
    epsilon: float = 1e-6

    drawn = laws(
        key=directions,
        rate=between(0.2, 0.9),
        log_decay=minus(0.02, 0.5),
        curvature_rate=between(0.2, 0.9),
        curvature_log_decay=minus(0.02, 0.5),
        log_curvature=minus(0.1, 0.9),
        epsilon=1e-2,
    )

    def system(self) -> System:
        write = self.rate.unsqueeze(-1) * self._preconditioned()
        return delta_rule(
            decay=on_stored(self.log_decay, torch.exp),
            write=write.unsqueeze(-1),
            removal=self.key.unsqueeze(-1),
            read=self.query,
        )

    def _preconditioned(self) -> Float[Tensor, "*batch time key"]:
        """p_t: the keys, every coordinate rescaled."""
        fading = ScaledIdentity(self.curvature_log_decay.exp(), self.key.shape[-1])
        new = self.curvature_rate.unsqueeze(-1) * self.key.square()
        energy = recurrence(fading, new.unsqueeze(-1)).squeeze(-1)
        excess = (energy + self.epsilon).log() - self.log_curvature[..., None, None]
        return self.key * self.reach ** (-excess / (1 + excess.abs()))
