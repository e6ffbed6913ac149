"""Statements about systems, decided on the maps they imply."""

from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.certificates.certificate import Certificate
from dsf.certificates.weights import same_map
from dsf.composite import Operator
from dsf.evaluate import attention_map
from dsf.realisation import reduce


def equivalent(
    first: Operator, second: Operator, *, tolerance: float, folder: Path | None = None
) -> Certificate:
    """Certify that two systems apply the same map, within ``tolerance`` in Frobenius norm.

    Whatever their states and bases are. The maps are formed and compared exactly as they are
    stored; ``tolerance`` has to leave room for the rounding that formed them.

    Raises:
        ValueError: if the maps have different shapes, or ``tolerance`` is negative.
        MapTooLarge: if a map would take more than half of the free memory.
    """
    maps = [attention_map(system) for system in (first, second)]
    dtype = torch.promote_types(maps[0].dtype, maps[1].dtype)
    return same_map(maps[0].to(dtype), maps[1].to(dtype), tolerance=tolerance, folder=folder)


def reduction_error(
    map: Shaped[Tensor, "time time"], *, order: int, folder: Path | None = None
) -> Certificate:
    """Certify that the reduction of ``map`` to ``order`` states keeps its promised bound.

    The map of ``dsf.reduce(map, order=order)`` is compared with the original exactly. ``observed``
    is the distance; the tolerance of the claim is the bound, known before the maps are compared.

    Raises:
        ValueError: if ``order`` is below 1, or the map is not square, finite and causal.
    """
    reduction = reduce(map, order=order)
    return same_map(
        map,
        attention_map(reduction.system),
        tolerance=float(reduction.bound),
        folder=folder,
    )
