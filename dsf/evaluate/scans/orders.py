"""Scan orders: permutations of the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class ScanOrder:
    """A permutation of the tokens.

    Attributes:
        visits: the token that the scan visits at each of its steps.

    Raises:
        ValueError: if a token is visited twice, or not at all.

    Example:
        >>> import torch
        >>> order = ScanOrder.of([2, 0, 1])
        >>> order.scanned(torch.tensor([10, 11, 12]), axis=0)  # in scan order
        tensor([12, 10, 11])
        >>> order.restored(order.scanned(torch.arange(3), axis=0), axis=0)
        tensor([0, 1, 2])
    """

    visits: Int[Tensor, " time"]

    def __post_init__(self) -> None:
        visited = self.visits.sort().values
        if not torch.equal(visited, torch.arange(len(visited), device=visited.device)):
            raise ValueError(
                f"ScanOrder: 'visits' must name each of the tokens 0 to {len(visited) - 1} once, "
                f"but sorted they are {visited.tolist()[:20]}."
            )

    @classmethod
    def of(cls, visits: Sequence[int]) -> "ScanOrder":
        """The order that visits these tokens, first to last."""
        return cls(torch.tensor(list(visits), dtype=torch.int64))

    @classmethod
    def forward(cls, steps: int) -> "ScanOrder":
        """From the first token to the last."""
        return cls(torch.arange(steps))

    @classmethod
    def backward(cls, steps: int) -> "ScanOrder":
        """From the last token to the first."""
        return cls(torch.arange(steps).flip(0))

    @property
    def steps(self) -> int:
        """Number of tokens."""
        return len(self.visits)

    @cached_property
    def met_at(self) -> Int[Tensor, " time"]:
        """The step at which the scan visits each token: the inverse permutation."""
        return self.visits.argsort()

    def reversed(self) -> "ScanOrder":
        """The reversed order."""
        return ScanOrder(self.visits.flip(0))

    def scanned(self, part: Shaped[Tensor, "*axes"], *, axis: int) -> Shaped[Tensor, "*axes"]:
        """``part`` permuted along ``axis`` from the order of the tokens to scan order."""
        return part.index_select(axis, self.visits.to(part.device))

    def restored(self, part: Shaped[Tensor, "*axes"], *, axis: int) -> Shaped[Tensor, "*axes"]:
        """``part`` permuted along ``axis`` from scan order to the order of the tokens."""
        return part.index_select(axis, self.met_at.to(part.device))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScanOrder) and torch.equal(self.visits, other.visits)

    def __hash__(self) -> int:
        return hash(tuple(self.visits.tolist()))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.visits.tolist()[:8]))
        return f"ScanOrder({shown}{', ...' if self.steps > 8 else ''})"
