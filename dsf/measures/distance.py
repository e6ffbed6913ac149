"""Distances between two maps."""

from collections.abc import Iterator
from functools import reduce
from itertools import zip_longest

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.measures.fold import MapOrSystem, blocks, frobenius
from dsf.runtime.argument_checks import checked


@checked
def map_distance(first: MapOrSystem, second: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The Frobenius norm of the difference over that of ``first``. At least 0, ``nan`` for 0/0.

    Computed from row blocks of both, so neither map has to fit in memory.

    Raises:
        ValueError: if the maps have different sizes.

    >>> map_distance(torch.eye(2), torch.zeros(2, 2))
    tensor(1.)
    """
    sizes = [
        torch.stack([frobenius([a.weights - b.weights]), frobenius([a.weights])])
        for a, b in _pairs("map_distance", first, second)
    ]
    apart, size = reduce(torch.hypot, sizes)
    return apart / size


@checked
def largest_difference(first: MapOrSystem, second: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The largest absolute difference of two entries.

    >>> largest_difference(torch.eye(2), torch.zeros(2, 2))
    tensor(1.)
    """
    pairs = _pairs("largest_difference", first, second)
    return reduce(torch.maximum, [(a.weights - b.weights).abs().amax((-2, -1)) for a, b in pairs])


def _pairs(measure: str, first: MapOrSystem, second: MapOrSystem) -> Iterator[tuple[Rows, Rows]]:
    both = [blocks(source, overwrites=False) for source in (first, second)]
    for a, b in zip_longest(*both):
        if a is None or b is None or a.weights.shape != b.weights.shape:
            shapes = [None if each is None else tuple(each.weights.shape) for each in (a, b)]
            raise ValueError(
                f"{measure}: both maps must have the same size, but their blocks of rows have the "
                f"shapes {shapes[0]} and {shapes[1]}."
            )
        yield a, b
