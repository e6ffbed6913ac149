r"""Gated DeltaProduct: several delta rules at every token.

    S_t = H_n ... H_1 exp(g_t) S_{t-1} + Σ_m H_n ... H_{m+1} β_m k_m v_mᵀ        o_t = S_tᵀ q_t
    H_m = I - β_m k_m k_mᵀ

The product is stored as I - W Kᵀ with one column for every micro-step; W is also the input matrix.

Source: Siems et al. 2025, arXiv:2502.10297.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer, between, directions, laws, minus, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.system import System


@mixer
class GatedDeltaProduct(Mixer):
    """Delta rules with a micro-step axis; every micro-step is an input port of the system.

    Attributes:
        rate: β, write strengths.
        log_decay: g_t, nats per token, at most 0, applied before the first micro-step; none when
            absent (DeltaProduct).
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch time micro key"]
    value: Float[Tensor, "*batch time micro channel"]
    rate: Float[Tensor, "*batch time micro"]
    log_decay: Float[Tensor, "*batch time"] | None = None

    drawn = laws(key=directions, rate=between(0.2, 1.8), log_decay=minus(0.02, 0.5))
    drawn_sizes = laws(channel=(2,))

    def system(self) -> System:
        decay = torch.ones_like(self.query[..., 0])
        if self.log_decay is not None:
            decay = self.log_decay.exp()
        return delta_rule(
            decay=decay.unsqueeze(-1).expand_as(self.query),
            write=self._written(),
            removal=self.key.mT,
            read=self.query,
        )

    def _written(self) -> Shaped[Tensor, "*batch time key micro"]:
        """The writes of all micro-steps, each after the micro-steps that follow it."""
        written: list[Tensor] = []
        for key, rate in zip(self.key.unbind(-2), self.rate.unbind(-1), strict=True):
            added = rate.unsqueeze(-1) * key
            written = [old - added * (key * old).sum(dim=-1, keepdim=True) for old in written]
            written.append(added)
        return torch.stack(written, dim=-1)

    def signal(self) -> Shaped[Tensor, "*batch time micro channel"]:
        return self.value
