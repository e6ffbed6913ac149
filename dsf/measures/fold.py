"""Reductions of a map, written once as folds over blocks of rows.

They take a matrix, a system whose map never fits, or the blocks themselves.
"""

from collections.abc import Callable, Iterator
from math import prod

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import MapOrSystem, Rows, row_blocks
from dsf.evaluate.rows import SIZE
from dsf.system import System

Look = Callable[[Rows], Tensor]
ENTRIES = 1 << 25  # of one block of rows, over the whole batch: 128 MB in float32


def blocks(map_or_system: MapOrSystem) -> Iterator[Rows]:
    """Blocks of rows, with fewer rows at a time for large batches and long sequences.

    A block may reuse the memory of the one before, so it must not be stored.
    """
    if not isinstance(map_or_system, System):
        return row_blocks(map_or_system)
    columns = map_or_system.steps * map_or_system.input_size
    row = prod(map_or_system.batch) * columns * map_or_system.output_size
    size = min(SIZE, max(1, ENTRIES // max(row, 1)))
    return row_blocks(map_or_system, size=size, overwrites=True)


def per_row(map_or_system: MapOrSystem, look: Look) -> Shaped[Tensor, "*batch rows"]:
    """One number for every row."""
    return torch.cat([look(rows) for rows in blocks(map_or_system)], dim=-1)


def total(map_or_system: MapOrSystem, look: Look) -> Tensor:
    """The sum of ``look(rows)`` over the blocks."""
    found: Tensor | None = None
    for rows in blocks(map_or_system):
        seen = look(rows)
        found = seen if found is None else found + seen
    if found is None:
        raise ValueError("measures: the map has no rows, so there is nothing to measure.")
    return found


def real(rows: Rows, measure: str) -> Tensor:
    """The weights, which must be real for ``measure`` to be defined.

    Raises:
        ValueError: for a complex map.
    """
    if rows.weights.is_complex():
        raise ValueError(
            f"{measure}: signs need a real map, but this one is complex. Measure the magnitudes "
            f"(map.abs()) or the real part (map.real) instead."
        )
    return rows.weights


def in_reach(rows: Rows) -> Tensor:
    """Ones at the keys that a query may read: all, or those up to its own in a causal row.

    A row counts as causal if all its weights on later tokens are zero.
    """
    behind = rows.lag >= 0
    ahead = (rows.weights != 0) & ~behind
    reach = torch.where(ahead.any(dim=-1, keepdim=True), True, behind)
    return reach.to(rows.weights.abs().dtype)
