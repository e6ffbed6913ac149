"""Distances between two maps."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import MapOrSystem, row_blocks


def map_distance(first: MapOrSystem, second: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The Frobenius norm of the difference over that of ``first``. At least 0, ``nan`` for 0/0.

    Computed from row blocks of both, so neither map has to fit in memory.

    Raises:
        ValueError: if the maps have different sizes.

    >>> map_distance(torch.eye(2), torch.zeros(2, 2))
    tensor(1.)
    """
    apart, size = _summed(first, second)
    return (apart / size).sqrt()


def largest_difference(first: MapOrSystem, second: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The largest absolute difference of two entries.

    >>> largest_difference(torch.eye(2), torch.zeros(2, 2))
    tensor(1.)
    """
    found: Tensor | None = None
    for a, b in zip(row_blocks(first), row_blocks(second), strict=True):
        _alike(a.weights, b.weights)
        seen = (a.weights - b.weights).abs().amax(dim=(-2, -1))
        found = seen if found is None else torch.maximum(found, seen)
    if found is None:
        raise ValueError("largest_difference: the maps have no rows.")
    return found


def _summed(first: MapOrSystem, second: MapOrSystem) -> tuple[Tensor, Tensor]:
    apart, size = None, None
    for a, b in zip(row_blocks(first), row_blocks(second), strict=True):
        _alike(a.weights, b.weights)
        difference = (a.weights - b.weights).abs().square().sum(dim=(-2, -1))
        own = a.weights.abs().square().sum(dim=(-2, -1))
        apart = difference if apart is None else apart + difference
        size = own if size is None else size + own
    if apart is None or size is None:
        raise ValueError("map_distance: the maps have no rows.")
    return apart, size


def _alike(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"map_distance: both maps must have the same size, but their blocks have the shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
