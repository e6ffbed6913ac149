r"""HGRN: a gated recurrence whose input gate is one minus its forget gate.

    h_t = a_t ⊙ h_{t-1} + (1 - a_t) ⊙ v_t        y_t = h_t

Source: Qin, Yang & Zhong 2023, arXiv:2311.04823.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer
from dsf.mixers.drawing import normal, uniform
from dsf.mixers.ingredients.recurrent_cells import channel_systems
from dsf.systems.system import System


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HGRN(Mixer):
    """One state for every channel. System batch: ``*batch channel``.

    Attributes:
        decay: a_t, a factor per token in 0 ... 1.
    """

    value: Float[Tensor, "*batch time channel"]
    decay: Float[Tensor, "*batch time channel"]

    source: ClassVar[str] = "arXiv:2311.04823"

    def system(self) -> System:
        return channel_systems(
            decay=self.decay, write=1 - self.decay, read=torch.ones_like(self.decay)
        )

    def signal(self) -> Shaped[Tensor, "*batch channel time 1 1"]:
        return self.value.mT[..., None, None]

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "HGRN":
        return cls(
            value=normal(rng, 2, steps, 3),
            decay=uniform(rng, 2, steps, 3, low=0.4, high=0.98),
        )
