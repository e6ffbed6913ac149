"""Tokens on a grid: the ways across it, and maps seen on it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.scans.orders import ScanOrder


@dataclass(frozen=True)
class Grid:
    """Tokens in ``height`` rows of ``width``, counted row by row.

    Attributes:
        apart: places in the sequence of tokens that are not on the grid, such as a class token.

    Example:
        >>> grid = Grid(2, 3)
        >>> grid.by_columns()
        ScanOrder(0, 3, 1, 4, 2, 5)
        >>> [order.visits.tolist() for order in grid.crossing()]
        [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    """

    height: int
    width: int
    apart: Sequence[int] = ()

    @property
    def steps(self) -> int:
        """How many tokens, those apart included."""
        return self.height * self.width + len(self.apart)

    @property
    def places(self) -> Tensor:
        """Where in the sequence the tokens of the grid are, ``height width``."""
        on_it = [token for token in range(self.steps) if token not in set(self.apart)]
        return torch.tensor(on_it).reshape(self.height, self.width)

    def by_rows(self) -> ScanOrder:
        """Row by row: the order of the tokens."""
        return self._through(self.places.flatten())

    def by_columns(self) -> ScanOrder:
        """Column by column."""
        return self._through(self.places.mT.flatten())

    def to_and_fro(self) -> ScanOrder:
        """Row by row, every other one from its end, so that neighbours follow each other."""
        places = self.places.clone()
        places[1::2] = places[1::2].flip(-1)
        return self._through(places.flatten())

    def crossing(self) -> tuple[ScanOrder, ScanOrder, ScanOrder, ScanOrder]:
        """By rows, by columns, and both from the end: the cross scan of VMamba.

        Source: Liu et al. 2024, arXiv:2401.10166.
        """
        rows, columns = self.by_rows(), self.by_columns()
        return rows, columns, rows.reversed(), columns.reversed()

    def view(
        self, map: Shaped[Tensor, "*batch written read"]
    ) -> Shaped[Tensor, "*batch height width height width"]:
        """A map of the tokens as pictures: where is written, then where is read.

        ``view(map)[..., y, x, :, :]`` is what the token at row y, column x reads, on the grid.
        Tokens apart are left out.

        Raises:
            ValueError: if the map has other sizes than the grid.
        """
        if map.shape[-2:] != (self.steps, self.steps):
            raise ValueError(
                f"Grid.view: a {self.height} x {self.width} grid with {len(self.apart)} tokens "
                f"apart has maps of {self.steps} x {self.steps}, but this one is "
                f"{map.shape[-2]} x {map.shape[-1]}."
            )
        on_it = self.places.flatten().to(map.device)
        cut = map.index_select(-2, on_it).index_select(-1, on_it)
        sizes = (self.height, self.width)
        return cut.unflatten(-1, sizes).unflatten(-3, sizes)

    def _through(self, way: Tensor) -> ScanOrder:
        """That way over the grid; tokens apart keep their places in the sequence."""
        visits = torch.arange(self.steps)
        visits[self.places.flatten()] = way
        return ScanOrder(visits)
