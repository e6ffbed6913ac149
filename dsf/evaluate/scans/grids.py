"""Tokens on a two-dimensional grid: scan orders across it, and maps viewed as images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.scans.orders import ScanOrder


@dataclass(frozen=True)
class Grid:
    """Tokens in ``height`` rows of ``width``, numbered row by row.

    Attributes:
        apart: positions in the sequence of tokens that are not on the grid, such as a class token.

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
        """Number of tokens, those apart from the grid included."""
        return self.height * self.width + len(self.apart)

    @property
    def places(self) -> Tensor:
        """Positions in the sequence of the tokens of the grid, ``height width``."""
        on_it = [token for token in range(self.steps) if token not in set(self.apart)]
        return torch.tensor(on_it).reshape(self.height, self.width)

    def by_rows(self) -> ScanOrder:
        """Row by row: the order of the tokens."""
        return self._through(self.places.flatten())

    def by_columns(self) -> ScanOrder:
        """Column by column."""
        return self._through(self.places.mT.flatten())

    def to_and_fro(self) -> ScanOrder:
        """Row by row, every second row reversed, so that consecutive tokens are neighbours."""
        places = self.places.clone()
        places[1::2] = places[1::2].flip(-1)
        return self._through(places.flatten())

    def crossing(self) -> tuple[ScanOrder, ScanOrder, ScanOrder, ScanOrder]:
        """By rows, by columns, and both reversed: the cross scan of VMamba.

        Source: Liu et al. 2024, arXiv:2401.10166.
        """
        rows, columns = self.by_rows(), self.by_columns()
        return rows, columns, rows.reversed(), columns.reversed()

    def view(
        self, map: Shaped[Tensor, "*batch written read"]
    ) -> Shaped[Tensor, "*batch height width height width"]:
        """A map of the tokens with its query (row) and its key (column) axis as grid axes.

        ``view(map)[..., y, x, :, :]`` are the weights with which the token at row y, column x of
        the grid reads the tokens of the grid. Tokens apart from the grid are left out.

        Raises:
            ValueError: if the map does not have as many tokens as the grid.
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
        """The scan order of the grid tokens ``way``; tokens apart keep their positions."""
        visits = torch.arange(self.steps)
        visits[self.places.flatten()] = way
        return ScanOrder(visits)
