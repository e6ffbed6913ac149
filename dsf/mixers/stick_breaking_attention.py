r"""Stick-breaking attention: from the latest key back, each takes a share of the weight left.

    z_ij = scale q_i.k_j        a_ij = σ(z_ij) Π_{j<l<i} (1 - σ(z_il))        o_i = Σ_{j<i} a_ij v_j

Rows sum to less than one, as the weight left after the first key is dropped. No recurrence with a
state of fixed size has these weights; the system is an attention cache.

Source: Tan et al. 2024, arXiv:2410.17980.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from dsf.mixers.base import KeyedMixer, laws, mixer
from dsf.systems.composite import PairRows, cache_system
from dsf.systems.system import System


@dataclass(frozen=True)
class StickBreakingRows(PairRows):
    """Rows of the map, from query and key on demand."""

    reads_itself: bool

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        scores = self.scores(start, stop)
        hidden = self.lags(start, stop) < (0 if self.reads_itself else 1)
        broken = logsigmoid(-scores).masked_fill(hidden, 0)
        newer = torch.cat([broken[..., 1:], torch.zeros_like(broken[..., :1])], dim=-1)
        left = newer.flip(-1).cumsum(dim=-1).flip(-1)
        weights = (logsigmoid(scores) + left).exp()
        return weights.masked_fill(hidden, 0).unsqueeze(-2)


@mixer
class StickBreakingAttention(KeyedMixer):
    """Causal attention with a preference for recent keys, without positions and without softmax.

    Attributes:
        scale: factor on q.k; ``key ** -0.5`` when absent.
        reads_itself: if set, the query's own key takes its share first, before earlier keys. If
            not, the first query reads nothing.
    """

    scale: float | None = None
    reads_itself: bool = False

    drawn = laws(scale=0.7, reads_itself=True)

    def system(self) -> System:
        return cache_system(StickBreakingRows.of(self))
