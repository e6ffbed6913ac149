"""How far a map is from a convex combination: negative weights and sums other than one."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.measures.fold import MapOrSystem, per_row, real
from dsf.measures.passes import Measured, reduced
from dsf.measures.row_reductions import AHEAD, BEHIND, COLUMNS, MASS, in_reach, lowest, negative
from dsf.runtime.argument_checks import checked


@checked
def negative_mass(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """Total weight of the negative entries, as a positive number. 0 for softmax attention.

    >>> negative_mass(torch.tensor([[1.0, 0.0], [-0.25, 0.5]]))
    tensor(0.2500)
    """
    (weight,) = reduced(map_or_system, negative("negative_mass"), measure="negative_mass")
    return weight.sum(dim=-1)


@checked
def negative_share(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """Share of the absolute weight that is negative, between 0 and 1; ``nan`` for a zero map.

    >>> negative_share(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor(0.2500)
    """

    wanted = (negative("negative_share"), MASS)
    below, everything = reduced(map_or_system, *wanted, measure="negative_share")
    return below.sum(dim=-1) / everything.sum(dim=-1)


@checked
def negative_entries(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """Share of the entries that are negative, between 0 and 1.

    Of the entries on and below the diagonal in a causal map, whose weights on later tokens are all
    zero, otherwise of all entries. ``nan`` for a map with ``nan``.

    >>> negative_entries(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor(0.3333)
    """

    def counts(rows: Rows) -> Tensor:
        weights = real(rows, "negative_entries")
        below = (weights < 0).sum(dim=-1).to(weights.dtype)
        below = torch.where(weights.isnan().any(dim=-1), torch.nan, below)
        return torch.stack([below, *(each.look(rows) for each in (AHEAD, BEHIND, COLUMNS))], -2)

    below, *tokens = per_row(map_or_system, counts).unbind(dim=-2)
    return below.sum(dim=-1) / in_reach(*tokens).sum(dim=-1)


@checked
def smallest_entry(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The smallest entry of the map; negative if any entry is.

    >>> smallest_entry(torch.tensor([[1.0, 0.0], [-0.25, 0.5]]))
    tensor(-0.2500)
    """
    (entry,) = reduced(map_or_system, lowest("smallest_entry"), measure="smallest_entry")
    return entry.amin(dim=-1)


@checked
def convexity_defect(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """The l1 distance of every row from the nearest probability vector.

    At least 0; 0 exactly when the row is a convex combination (non-negative, sum 1). With
    negative mass n and positive mass p of the row it is ``n + |p - 1|``: the negative entries are
    set to zero and the positive ones scaled to sum to one. A row of zeros is at distance 1.

    >>> convexity_defect(torch.tensor([[1.0, 0.0], [-0.25, 1.5]]))
    tensor([0.0000, 0.7500])
    """

    wanted = (negative("convexity_defect"), MASS)
    below, everything = reduced(map_or_system, *wanted, measure="convexity_defect")
    return below + (everything - below - 1).abs()
