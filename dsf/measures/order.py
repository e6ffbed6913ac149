"""How many states a map needs for a given error."""

import torch
from jaxtyping import Int
from torch import Tensor

from dsf.composite import ExplicitMap
from dsf.evaluate import row_blocks
from dsf.measures.hankel import hankel_singular_values
from dsf.system import System


def states_needed(
    map_or_system: Tensor | System | ExplicitMap, *, error: float
) -> Int[Tensor, "*batch"]:
    """The least order whose reduction is within ``error`` of the map, relative, in Frobenius norm.

    "How many states does this head need": one number for every map of the batch. From the Hankel
    singular values; ``dsf.reduce(map, order=...)`` of that order stays within its bound.

    Raises:
        ValueError: if ``error`` is not above 0.
    """
    if not error > 0:
        raise ValueError(f"states_needed: 'error' must be above 0, but it is {error}.")
    blocks = row_blocks(map_or_system)
    size = torch.stack([rows.weights.abs().square().sum(dim=(-2, -1)) for rows in blocks]).sum(0)
    energy = hankel_singular_values(map_or_system).square().sum(dim=-2)
    left = energy.flip(-1).cumsum(dim=-1).flip(-1)
    return (left > error**2 * size.unsqueeze(-1)).sum(dim=-1)
