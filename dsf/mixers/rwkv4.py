r"""RWKV-4: a weighted mean over the past in every channel, with a bonus for the current token.

    a_ij ~ e^{(i-1-j) w + k_j} for j < i        a_ii ~ e^{u + k_i}        rows sum to one

The sums are scaled by their running maximum. The system reads before the update, and the current
token contributes through D.

Source: Peng et al. 2023, arXiv:2305.13048.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.ingredients.recurrent_cells import before, running_maximum
from dsf.mixers.base import Mixer
from dsf.mixers.drawing import normal, uniform
from dsf.solve import recurrence
from dsf.system import System
from dsf.transition import Diagonal, ScaledIdentity


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RWKV4(Mixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        key: the logarithm of a token's weight.
        log_decay: w, nats per token, at most 0.
        bonus: u, added to the current token's log weight in place of any decay.
    """

    key: Float[Tensor, "*batch time channel"]
    value: Float[Tensor, "*batch time channel"]
    log_decay: Float[Tensor, " channel"]
    bonus: Float[Tensor, " channel"]

    source: ClassVar[str] = "arXiv:2305.13048"

    def system(self) -> System:
        largest = running_maximum(self.log_decay.expand_as(self.key), self.key, start=-torch.inf)
        earlier = before(largest, axis=-2, start=-torch.inf)
        decay = (earlier + self.log_decay - largest).exp()
        write = (self.key - largest).exp()
        total = recurrence(Diagonal(decay), write.unsqueeze(-1)).squeeze(-1)
        boosted = self.key + self.bonus
        peak = torch.maximum(earlier, boosted)
        past, own = (earlier - peak).exp(), (boosted - peak).exp()
        normaliser = past * before(total, axis=-2, start=0.0) + own
        B, C, D = (
            part.mT[..., None, None] for part in (write, past / normaliser, own / normaliser)
        )
        return System(ScaledIdentity(decay.mT, 1), B, C, D, reads_before_update=True)

    def signal(self) -> Shaped[Tensor, "*batch channel time 1 1"]:
        return self.value.mT[..., None, None]

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "RWKV4":
        return cls(
            key=2 * normal(rng, 2, steps, 3),
            value=normal(rng, 2, steps, 3),
            log_decay=-uniform(rng, 3, low=0.05, high=0.8),
            bonus=normal(rng, 3),
        )
