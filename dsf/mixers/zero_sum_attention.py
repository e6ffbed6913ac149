r"""Zero-sum attention: softmax weights without their zero-order term, so that rows sum to zero.

    w_ij = first_i δ_ij / n_i + higher_i ε_ij (+ zero_i / n_i)        o_i = Σ_j w_ij (q̂_i.k̂_j) v_j
    δ_ij = s_j - mean s        ε_ij = softmax(s)_j - 1/n_i - δ_ij / n_i

s is one logit for every token, the sums run over the n_i tokens that a query reads (the i tokens up
to i, or all), q̂ and k̂ have length one. The state holds the sums of e^s k̂, s k̂ and k̂, the first
one scaled by its running maximum.

Source: Lu et al. 2025, arXiv:2602.05230.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import Mixer, between, laws, mixer, normal, spread
from dsf.mixers.ingredients.matrix_memories import accumulator
from dsf.systems.composite import SystemSum
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, ScaledIdentity, recurrence


@mixer
class ZeroSumAttention(Mixer):
    """Attention by the deviations from the mean.

    Attributes:
        query, key: scaled to length one here. Without them the weights are w_ij (radial only).
        logit: s.
        first_order, higher_order: factors of the query (row).
        zero_order: adds ``zero_order_i / n_i`` to every weight, so that rows sum to it (radial).
        causal: token i reads tokens 0 ... i. Otherwise every token reads all, as the sum of a
            forward and a backward system.

    Raises:
        ValueError: if only one of ``query`` and ``key`` is given.
    """

    value: Float[Tensor, "*batch time channel"]
    logit: Float[Tensor, "*batch time"]
    first_order: Float[Tensor, "*batch time"]
    higher_order: Float[Tensor, "*batch time"]
    query: Float[Tensor, "*batch time key"] | None = None
    key: Float[Tensor, "*batch time key"] | None = None
    zero_order: Float[Tensor, "*batch time"] | None = None
    causal: bool = True

    drawn = laws(
        logit=spread,
        first_order=between(0.2, 0.9),
        higher_order=between(0.2, 0.9),
        query=normal,
        key=normal,
        zero_order=normal,
    )
    drawn_sizes = laws(key=(3,))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.query is None) != (self.key is None):
            raise ValueError(
                "ZeroSumAttention: give both 'query' and 'key', or neither for radial weights."
            )

    def system(self) -> System | SystemSum:
        if self.causal:
            return self.following({})
        tokens = self.logit.shape[-1]
        deviation = self.logit - self.logit.mean(dim=-1, keepdim=True)
        ones = torch.ones_like(deviation)
        constant = (0.0 if self.zero_order is None else self.zero_order) - self.higher_order
        first = self.first_order - self.higher_order
        read = torch.stack([self.higher_order, first / tokens, constant / tokens], dim=-1)
        write = torch.stack([self.logit.softmax(dim=-1), deviation, ones], dim=-1)
        return accumulator(
            self._by_key(write, self.key), self._by_key(read, self.query), causal=False
        )

    def following(self, sums: dict[str, Tensor]) -> System:
        """The causal system on tokens that continue an earlier sequence.

        Args:
            sums: the running sums of the earlier tokens, by name; empty at the start. They are
                replaced by the sums that include these tokens.
        """
        raised, decay, total = self._exponentials(sums)
        origin = sums.setdefault("origin", self.logit[..., :1])
        above = self.logit - origin  # weights depend on differences alone
        ones = torch.ones_like(above)
        tokens, mean = _going_on(ones, "counted", sums), _going_on(above, "above", sums)
        mean = mean / tokens
        first, higher = self.first_order / tokens, self.higher_order / tokens
        constant = -mean * (first - higher) - higher
        if self.zero_order is not None:
            constant = constant + self.zero_order / tokens
        read = torch.stack([self.higher_order / total, first - higher, constant], dim=-1)
        write = torch.stack([raised, above, ones], dim=-1)
        kept = torch.stack([decay, ones, ones], dim=-1)
        return System.from_write_and_read(
            Diagonal(self._by_key(kept, None)),
            write=self._by_key(write, self.key),
            read=self._by_key(read, self.query),
        )

    def _exponentials(self, sums: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """``e^(s - m)`` with running maximum m, its decay where m grows, and the running sum."""
        before = sums.get("largest", self.logit[..., :1])
        largest = torch.maximum(self.logit.cummax(dim=-1).values, before)
        decay = (torch.cat([before, largest[..., :-1]], dim=-1) - largest).exp()
        raised = (self.logit - largest).exp()
        entering = decay[..., :1] * sums.get("total", torch.zeros_like(before))
        drive = torch.cat([raised[..., :1] + entering, raised[..., 1:]], dim=-1)
        total = recurrence(ScaledIdentity(decay, 1), drive[..., None, None])[..., 0, 0]
        sums.update(largest=largest[..., -1:], total=total[..., -1:])
        return raised, decay, total

    def _by_key(self, factors: Tensor, direction: Tensor | None) -> Tensor:
        """Every factor times the unit vector of ``direction``, or times one; concatenated."""
        if self.key is None:
            return factors
        if direction is None:
            unit = torch.ones_like(self.key)
        else:
            unit = torch.nn.functional.normalize(direction, dim=-1)
        return (factors.unsqueeze(-1) * unit.unsqueeze(-2)).flatten(-2)


def _going_on(part: Tensor, name: str, sums: dict[str, Tensor]) -> Tensor:
    """The running sum of ``part`` along tokens, continued from the one in ``sums``."""
    total = part.cumsum(dim=-1)
    if name in sums:
        total = total + sums[name]
    sums[name] = total[..., -1:]
    return total
