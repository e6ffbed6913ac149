r"""DeltaFormer: softmax attention to values corrected by what earlier tokens already store.

    u_i = v_i - β_i Σ_{j<i} softmax_{j<i}(scale p_i.k_j) u_j
    o_i = Σ_{j<=i} softmax_{j<=i}(scale q_i.k_j) u_j

The map is S (I + diag(β) W)⁻¹ with S and W the two softmax maps, W strictly below the diagonal and
with a first row of zeros. No recurrence with a state of fixed size has this map; the system is an
attention cache.

Source: arXiv:2505.19488.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, mixer
from dsf.systems.composite import PANEL, PairRows, cache_system, softmax_in_reach
from dsf.systems.system import System


@dataclass(frozen=True)
class DeltaFormerRows(PairRows):
    """Rows of the map on demand, by substitution, a panel of keys at a time."""

    removal: Float[Tensor, "*batch time key"]
    rate: Float[Tensor, "*batch time"]

    def window(self, start: int, stop: int) -> Shaped[Tensor, "*batch time 1 read"]:
        left, parts = self._attended(start, stop)[..., :stop], []
        for last in range(stop, 0, -PANEL):
            first = max(last - PANEL, 0)
            earlier, inside = self._taken(first, last)
            parts.append(
                torch.linalg.solve_triangular(
                    inside, left[..., first:], upper=False, left=False, unitriangular=True
                )
            )
            left = left[..., :first] - parts[-1] @ earlier
        rows = torch.cat(parts[::-1], dim=-1)
        return torch.nn.functional.pad(rows, (0, self.key.shape[-2] - stop)).unsqueeze(-2)

    def _attended(self, start: int, stop: int) -> Tensor:
        """Rows of S."""
        return softmax_in_reach(
            self.scores(start, stop).masked_fill(self.ahead(start, stop), -torch.inf)
        )

    def _taken(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Rows of diag(β) W: columns before ``start``, and those from there to ``stop - 1``."""
        scores = self.scale * (self.removal[..., start:stop, :] @ self.key[..., :stop, :].mT)
        itself = self.lags(start, stop)[:, :stop] <= 0
        taken = softmax_in_reach(scores.masked_fill(itself, -torch.inf))
        earlier, inside = (self.rate[..., start:stop, None] * taken).tensor_split([start], dim=-1)
        return earlier, inside


@mixer
class DeltaFormer(Mixer):
    """Softmax attention with a delta rule on its cache.

    Attributes:
        removal: p_i, the query for the values to subtract; the paper's models use ``key``.
        rate: β_i, factor on what is subtracted; with 0 it is softmax attention.
        scale: factor on both products; ``key ** -0.5`` when absent.
    """

    query: Float[Tensor, "*batch time key"]
    key: Float[Tensor, "*batch time key"]
    removal: Float[Tensor, "*batch time key"]
    value: Float[Tensor, "*batch time channel"]
    rate: Float[Tensor, "*batch time"]
    scale: float | None = None

    drawn = laws(rate=between(0.2, 0.9), scale=0.7)

    def system(self) -> System:
        return cache_system(DeltaFormerRows.of(self))
