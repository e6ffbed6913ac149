r"""Zero-sum attention on scores of pairs: softmax re-weighted order by order, one row at a time.

    w_ij = first_i δ_ij / n_i + higher_i ε_ij (+ zero_i / n_i)        o_i = Σ_j w_ij v_j
    δ_ij = s_ij - mean_j s_ij        ε_ij = softmax_j(s_ij) - 1/n_i - δ_ij / n_i

with s_ij = scale q_i.k_j, over the n_i keys that query i reads. With all three factors at one it is
softmax attention, without the higher order InLine attention. No recurrence with a state of fixed
size has these weights; the system is an attention cache.

Source: Lu et al. 2025, arXiv:2602.05230 (there ZeroS-SM).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, mixer, normal, spread
from dsf.runtime.shapes import agree
from dsf.systems.composite import ExplicitMap, Operator, PairRows, cache_system


@dataclass(frozen=True)
class ZeroSumRows(PairRows):
    """Rows of the map, from query and key on demand; ``orders`` are zero, first and higher."""

    orders: Float[Tensor, "*batch time 3"]
    causal: bool

    @property
    def is_causal(self) -> bool:
        return self.causal

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        scores = self.scores(start, stop)
        ahead, reach = self._reach(start, stop)
        mean = scores.masked_fill(ahead, 0).sum(dim=-1, keepdim=True) / reach
        deviation = (scores - mean) / reach
        softmax = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
        zero, first, higher = self.orders[..., start:stop, :].split(1, dim=-1)
        rest = softmax - 1 / reach - deviation
        weights = zero / reach + first * deviation + higher * rest
        return weights.masked_fill(ahead, 0).unsqueeze(-2)

    def _reach(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Which keys a row may not read, and how many it reads."""
        read = torch.arange(self.key.shape[-2], device=self.device)
        last = torch.arange(start, stop, device=self.device) if self.causal else read[-1:]
        return read > last[:, None], (last[:, None] + 1).to(self.dtype)


@mixer
class ZeroSumSoftmaxAttention(Mixer):
    """Attention by the deviations of softmax from an equal share.

    Attributes:
        first_order, higher_order: factors of the query (row).
        zero_order: adds ``zero_order_i / n_i`` to every weight, so that rows sum to it, not to 0.
        scale: factor on q.k; ``key ** -0.5`` when absent.
        causal: token i reads tokens 0 ... i only, and the mixer is a system. Otherwise it is an
            explicit map, which may read another sequence.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch read key"]
    value: Float[Tensor, "*batch read channel"]
    first_order: Float[Tensor, "*batch time"]
    higher_order: Float[Tensor, "*batch time"]
    zero_order: Float[Tensor, "*batch time"] | None = None
    scale: float | None = None
    causal: bool = True

    drawn = laws(
        query=spread,
        first_order=between(0.2, 0.9),
        higher_order=between(0.2, 0.9),
        zero_order=normal,
        scale=0.7,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal:
            steps = self.query.shape[-2]
            owner = "ZeroSumSoftmaxAttention (causal)"
            agree(owner, "time", query=steps, key=self.key.shape[-2])

    def system(self) -> Operator:
        zero = torch.zeros_like(self.first_order) if self.zero_order is None else self.zero_order
        orders = torch.stack([zero, self.first_order, self.higher_order], dim=-1)
        rows = ZeroSumRows.of(self, orders=orders)
        return cache_system(rows) if self.causal else ExplicitMap(rows)
