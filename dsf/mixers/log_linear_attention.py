r"""Log-linear attention: weights are scaled by the distance of the key in powers of two.

    a_ij = scale_i[level(i, j)] exp(Σ_{s=j+1..i} g_s) q_i.k_j    o_i = Σ_{j<=i} a_ij v_j + d v_i

with level(i, j) the number of binary digits of i xor j, tokens counted from 0: level 0 is the token
itself, before it come blocks of at most 1, 2, 4, ... tokens. A recurrence with one memory for every
level has these weights; the system here is an attention cache.

Source: Guo et al. 2025, arXiv:2506.04761.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, laws, minus, mixer, normal
from dsf.runtime.number_types import exact_dtype
from dsf.runtime.shapes import ShapeError
from dsf.systems.composite import PairRows, cache_system, faded
from dsf.systems.system import System


@dataclass(frozen=True)
class LogLinearRows(PairRows):
    """Rows of the map, from query, key and levels on demand."""

    log_decay: Float[Tensor, "*batch time"]
    level_scale: Float[Tensor, "*batch time level"]
    feedthrough: Float[Tensor, "*batch"] | None

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        scores = self.scores(start, stop)
        level = self._levels(start, stop).expand(scores.shape)
        by_level = self.level_scale[..., start:stop, :].gather(-1, level)
        weights = by_level * faded(self.log_decay, start, stop).exp() * scores
        weights = weights.masked_fill(self.ahead(start, stop), 0)
        if self.feedthrough is not None:
            own = torch.arange(weights.shape[-1], device=self.device) == self._written(start, stop)
            weights = weights + torch.where(own, self.feedthrough[..., None, None], 0)
        return weights.unsqueeze(-2)

    def _levels(self, start: int, stop: int) -> Tensor:
        read = torch.arange(self.key.shape[-2], device=self.device)
        apart = (self._written(start, stop) ^ read).to(exact_dtype(torch.float32, self.device))
        return torch.frexp(apart).exponent.long()

    def _written(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self.device)[:, None]


@mixer
class LogLinearAttention(KeyedMixer):
    """Linear attention with one decay for every token and a scale for every level.

    No scale is applied to q.k: pass a query that is scaled.

    Attributes:
        log_decay: g_s, nats per token, at most 0.
        level_scale: factors of the query on each level; T tokens need one level more than T - 1 has
            binary digits.
        feedthrough: d, what a token adds to the weight of itself; none when absent.

    Raises:
        ShapeError: if there are fewer levels than the sequence needs.
    """

    log_decay: Float[Tensor, "*batch time"]
    level_scale: Float[Tensor, "*batch time level"]
    feedthrough: Float[Tensor, "*batch"] | None = None

    drawn = laws(
        log_decay=minus(0.02, 0.5),
        level_scale=between(0.2, 2.0),
        feedthrough=normal,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        steps, given = self.level_scale.shape[-2:]
        needed = (steps - 1).bit_length() + 1
        if given < needed:
            raise ShapeError(
                f"LogLinearAttention: {steps} tokens need {needed} levels, but 'level_scale' has "
                f"{given}."
            )

    def system(self) -> System:
        return cache_system(LogLinearRows.of(self, scale=1.0))
