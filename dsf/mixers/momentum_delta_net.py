r"""Momentum DeltaNet: a delta rule as gradient descent with momentum.

    M_t = μ_t M_{t-1} - η_t k_t (v_t - S_{t-1}ᵀ p_t)ᵀ
    S_t = α_t S_{t-1} - β_t M_t        o_t = S_tᵀ q_t

As a system the states are S above M:

    A_t = [[α I - β η k pᵀ, -β μ I], [η k pᵀ, μ I]]        B_t = [β η k; -η k]        C_t = [q; 0]

Source: arXiv:2605.05838. With μ_t = 0 and p_t = α_t k_t it is the gated DeltaNet.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, directions, laws, minus, mixer
from dsf.systems.system import System
from dsf.systems.transition import Dense, Kronecker


@mixer
class MomentumDeltaNet(Mixer):
    """The delta rule as gradient descent with momentum; twice as many states as keys have entries.

    Attributes:
        removal: p_t, the vector at which the memory is read; often ``key``, or ``key`` times α_t.
        rate: β_t, step size of the memory along the momentum.
        error_rate: η_t, weight of the error in the momentum.
        log_decay: log α_t, nats per token, at most 0.
        momentum_log_decay: log μ_t, nats per token, at most 0.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch time key"]
    removal: Float[Tensor, "*batch time key"]
    value: Float[Tensor, "*batch time channel"]
    rate: Float[Tensor, "*batch time"]
    error_rate: Float[Tensor, "*batch time"]
    log_decay: Float[Tensor, "*batch time"]
    momentum_log_decay: Float[Tensor, "*batch time"]

    drawn = laws(
        key=directions,
        removal=directions,
        rate=between(0.2, 0.7),
        error_rate=between(0.2, 0.9),
        log_decay=minus(0.1, 0.5),
        momentum_log_decay=minus(0.3, 1.5),
    )

    def system(self) -> System:
        entered = self.error_rate.unsqueeze(-1) * self.key
        write = torch.cat([self.rate.unsqueeze(-1) * entered, -entered], dim=-1)
        read = torch.cat([self.query, torch.zeros_like(self.query)], dim=-1)
        memory, momentum = self.log_decay.exp(), self.momentum_log_decay.exp()
        decays = [memory, -self.rate * momentum, torch.zeros_like(memory), momentum]
        kept = torch.stack(decays, dim=-1).unflatten(-1, (2, 2))
        looked_up = torch.cat([self.removal, torch.zeros_like(self.removal)], dim=-1)
        A = Kronecker(kept, self.key.shape[-1]).dense()
        A = A - write.unsqueeze(-1) * looked_up.unsqueeze(-2)
        return System.from_write_and_read(Dense(A), write, read)
