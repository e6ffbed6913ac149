r"""DeltaNet: erase what is stored at a key, then write the new value there.

    S_t = (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ        o_t = S_tᵀ q_t

Source: Yang et al. 2024, arXiv:2406.06484. With ‖k_t‖ = 1 and 0 ≤ β_t ≤ 2 no A_t expands.
"""

import torch
from jaxtyping import Inexact
from torch import Tensor

from dsf.mixers.base import ComplexKeyedMixer, between, directions, laws, mixer
from dsf.mixers.ingredients.matrix_memories import delta_rule
from dsf.systems.system import System


@mixer
class DeltaNet(ComplexKeyedMixer):
    """Linear attention with the delta rule."""

    rate: Inexact[Tensor, "*batch time"]

    drawn = laws(key=directions, rate=between(0.2, 1.8))

    def system(self) -> System:
        key = self.key.unsqueeze(-1)
        return delta_rule(
            decay=torch.ones_like(self.rate).unsqueeze(-1).expand_as(self.key),
            write=self.rate[..., None, None] * key,
            removal=key,
            read=self.query,
        )
