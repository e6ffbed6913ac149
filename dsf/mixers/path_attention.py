r"""PaTH attention: softmax attention whose positions are products of Householder-like maps.

    a_ij = softmax_j(scale (q_iᵀ H_i H_{i-1} ... H_{j+1} k_j + Σ_{s=j+1..i} g_s))
    H_t = I - β_t w_t w_tᵀ        o_i = Σ_{j<=i} a_ij v_j

No recurrence with a state of fixed size has these weights; the system is an attention cache.

Source: Yang et al. 2025, arXiv:2505.16381.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, between, directions, laws, minus, mixer, spread
from dsf.systems.composite import PANEL, ExponentialRows, cache_system, faded
from dsf.systems.system import System


@dataclass(frozen=True)
class PathRows(ExponentialRows):
    """Rows of the map on demand, by transforming queries back to the keys, a panel at a time."""

    direction: Float[Tensor, "*batch time key"]
    rate: Float[Tensor, "*batch time"]
    log_decay: Float[Tensor, "*batch time"] | None

    def logits(self, start: int, stop: int) -> Float[Tensor, "*batch rows keys"]:
        products = torch.cat([*self._products(start, stop)][::-1], dim=-1)
        if self.log_decay is not None:
            products = products + faded(self.log_decay[..., :stop], start, stop)
        return (self.scale * products).masked_fill(self.ahead(start, stop)[:, :stop], -torch.inf)

    def _products(self, start: int, stop: int) -> Iterator[Tensor]:
        """Products with the keys, from the newest panel of keys to the oldest.

        Inside a panel, ``met`` holds the component of the query along the direction of each map,
        after all later maps have been applied; it solves a triangular system.
        """
        carried = self.query[..., start:stop, :]
        written = torch.arange(start, stop, device=self.device)[:, None]
        for last in range(stop, 0, -PANEL):
            first = max(last - PANEL, 0)
            key, direction = self.key[..., first:last, :], self.direction[..., first:last, :]
            taken = self.rate[..., first:last, None] * direction
            on_the_way = torch.arange(first, last, device=self.device) <= written
            found = torch.where(on_the_way, carried @ direction.mT, 0)
            met = torch.linalg.solve_triangular(
                (taken @ direction.mT).tril(-1), found, upper=False, left=False, unitriangular=True
            )
            yield carried @ key.mT - met @ (taken @ key.mT).tril(-1)
            carried = carried - met @ taken


@mixer
class PathAttention(KeyedMixer):
    """Causal softmax attention with data-dependent positions.

    Attributes:
        direction: w_t, usually of length one.
        rate: β_t, between 0 and 2 with directions of length one; 0 leaves the query unchanged.
        log_decay: g_s, nats per token before ``scale``, at most 0; none when absent.
        scale: factor on the scores, decays included; ``key ** -0.5`` when absent.
    """

    direction: Float[Tensor, "*batch time key"]
    rate: Float[Tensor, "*batch time"]
    log_decay: Float[Tensor, "*batch time"] | None = None
    scale: float | None = None

    drawn = laws(
        query=spread,
        direction=directions,
        rate=between(0.2, 1.8),
        log_decay=minus(0.02, 0.8),
        scale=0.7,
    )

    def system(self) -> System:
        return cache_system(PathRows.of(self))
