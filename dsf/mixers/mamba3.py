r"""Mamba-3 with one input and one output: every token writes itself and the token before it.

    h_t = α_t h_{t-1} + (1 - λ_t) Δ_t α_t k_{t-1} v_{t-1}ᵀ + λ_t Δ_t k_t v_tᵀ
    o_t = h_tᵀ q_t + d v_t        α_t = exp(Δ_t a_t)

with queries and keys rotated by the angle Σ_{s<=t} rotation_s. What the previous token wrote is
stored in additional states: there are twice as many states as key entries, and no coefficient
depends on later tokens.

    A_t = [[α I, (1 - λ) Δ α I], [0, 0]]        B_t = [λ Δ k; k]        C_t = [q; 0]

Source: arXiv:2603.15569. With λ_t = 1 it is the scan of Mamba-2 with rotated queries and keys.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, laws, minus, mixer, normal
from dsf.runtime.shapes import ShapeError
from dsf.systems.system import System
from dsf.systems.transition import Kronecker


@mixer
class Mamba3(KeyedMixer):
    """One head of Mamba-3. No scale is applied.

    Attributes:
        query, key: after their norm and bias, before the rotation.
        step: Δ_t > 0, time per token.
        pole: a_t, per unit of time, below zero.
        blend: λ_t in 0 ... 1, the share of the new token in the trapezoid; 1/2 is the
            trapezoidal rule.
        rotation: angle in radians by which the pairs of entries (0, 1), (2, 3), ... rotate at this
            token; entries after the last pair are not rotated.
        feedthrough: d, one factor per batch entry, added as D.
    """

    step: Float[Tensor, "*batch time"]
    pole: Float[Tensor, "*batch time"]
    blend: Float[Tensor, "*batch time"]
    rotation: Float[Tensor, "*batch time pair"] | None = None
    feedthrough: Float[Tensor, "*batch"] | None = None

    drawn = laws(
        step=between(0.05, 1.0),
        pole=minus(0.1, 2.0),
        blend=between(0.2, 0.8),
        rotation=between(-2.0, 2.0),
        feedthrough=normal,
    )
    drawn_sizes = laws(key=(5,), pair=(2,))

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.key.shape[-1]
        if self.rotation is not None and 2 * self.rotation.shape[-1] > size:
            raise ShapeError(
                f"Mamba3: 'rotation' rotates pairs of key entries, at most {size // 2} of them for "
                f"keys of {size} entries, but it has {self.rotation.shape[-1]}."
            )

    def system(self) -> System:
        query, key = self._turned(self.query), self._turned(self.key)
        kept = (self.step * self.pole).exp()
        late = (1 - self.blend) * self.step * kept
        small = torch.stack([kept, late, *[torch.zeros_like(kept)] * 2], dim=-1)
        new = (self.blend * self.step).unsqueeze(-1) * key
        return System.from_write_and_read(
            Kronecker(small.unflatten(-1, (2, 2)), key.shape[-1]),
            write=torch.cat([new, key], dim=-1),
            read=torch.cat([query, torch.zeros_like(query)], dim=-1),
            feedthrough=(
                None
                if self.feedthrough is None
                else self.feedthrough.unsqueeze(-1).expand_as(self.step)
            ),
        )

    def _turned(self, part: Tensor) -> Tensor:
        """Pairs of neighbouring entries rotated by the sum of all angles so far."""
        if self.rotation is None:
            return part
        angle = self.rotation.cumsum(dim=-2)
        turning, staying = part.tensor_split([2 * angle.shape[-1]], dim=-1)
        first, second = turning.unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = angle.cos(), angle.sin()
        turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1)
        return torch.cat([turned.flatten(-2), staying], dim=-1)
