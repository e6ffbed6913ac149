"""How far a map is from a convex combination: sums, negative weights, weights on later tokens."""

from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows, respond
from dsf.measures import fold
from dsf.measures.passes import Measured, reduced
from dsf.runtime.argument_checks import checked
from dsf.systems.algebra import adjoint
from dsf.systems.composite import ExplicitMap, SystemSum, at_rest, kept_rows, response_dtype
from dsf.systems.system import System


@checked
def row_sums(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """The signed sum of every row: the response to a constant signal of ones.

    1 for softmax attention, 0 for zero-sum attention, any number in general. A row that reads no
    key sums to 0, a row with ``nan`` to ``nan``. For a system this is one pass of the recurrence,
    O(time x state), without a map.

    >>> row_sums(torch.tensor([[1.0, 0.0], [0.25, 0.5]]))
    tensor([1.0000, 0.7500])
    """
    if isinstance(map_or_system, System | SystemSum | ExplicitMap):
        return _response_to_ones(fold.widened(map_or_system))
    (sums,) = reduced(map_or_system, fold.SUM, measure="row_sums")
    return sums


def _response_to_ones(system: System | SystemSum | ExplicitMap) -> Tensor:
    reads = system.read_steps if isinstance(system, ExplicitMap) else system.steps
    one = torch.ones((), dtype=response_dtype(system), device=system.device)
    response = respond(at_rest(system), one.expand(*system.batch, reads, system.input_size, 1))
    return response.flatten(-3, -2).squeeze(-1)


@checked
def row_sum_spread(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The largest row sum minus the smallest. At least 0; 0 when every row sums to the same.

    Raises:
        ValueError: if the sums are complex.

    >>> row_sum_spread(torch.tensor([[1.0, 0.0], [0.25, 0.5]]))
    tensor(0.2500)
    """
    sums = row_sums(map_or_system)
    if sums.is_complex():
        raise ValueError(
            "row_sum_spread: the largest and the smallest sum need a real map, but this one is "
            "complex. Measure the real part (map.real) instead, or look at row_sums."
        )
    return sums.amax(dim=-1) - sums.amin(dim=-1)


@checked
def column_sums(map_or_system: fold.MapOrSystem) -> Shaped[Tensor, "*batch columns"]:
    """The signed sum of every column: the total weight with which a key is read by all queries.

    For a system this is one pass of its adjoint, O(time x state), without a map; for an attention
    cache, a pass over its rows.

    >>> column_sums(torch.tensor([[1.0, 0.0], [0.25, 0.5]]))
    tensor([1.2500, 0.5000])
    """
    if isinstance(map_or_system, System) and kept_rows(map_or_system) is None:
        return _response_to_ones(cast("System", adjoint(fold.widened(map_or_system))))
    return fold.total(map_or_system, lambda rows: rows.weights.sum(dim=-2))


@checked
def largest_ahead(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The largest absolute weight above the diagonal: 0 for a causal map.

    >>> largest_ahead(torch.tensor([[1.0, -0.5], [0.25, 0.5]]))
    tensor(0.5000)
    """
    (ahead,) = reduced(map_or_system, fold.AHEAD, measure="largest_ahead")
    return ahead.amax(dim=-1)


@checked
def negative_mass(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """Total weight of the negative entries, as a positive number. 0 for softmax attention.

    >>> negative_mass(torch.tensor([[1.0, 0.0], [-0.25, 0.5]]))
    tensor(0.2500)
    """
    (weight,) = reduced(map_or_system, fold.negative("negative_mass"), measure="negative_mass")
    return weight.sum(dim=-1)


@checked
def negative_share(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """Share of the absolute weight that is negative, between 0 and 1; ``nan`` for a zero map.

    >>> negative_share(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor(0.2500)
    """

    wanted = (fold.negative("negative_share"), fold.MASS)
    below, everything = reduced(map_or_system, *wanted, measure="negative_share")
    return below.sum(dim=-1) / everything.sum(dim=-1)


@checked
def negative_entries(map_or_system: fold.MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """Share of the entries that are negative, between 0 and 1.

    Of the entries on and below the diagonal in a causal map, whose weights on later tokens are all
    zero, otherwise of all entries. ``nan`` for a map with ``nan``.

    >>> negative_entries(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor(0.3333)
    """

    def counts(rows: Rows) -> Tensor:
        weights = fold.real(rows, "negative_entries")
        below = (weights < 0).sum(dim=-1).to(weights.dtype)
        below = torch.where(weights.isnan().any(dim=-1), torch.nan, below)
        tokens = (each.look(rows) for each in (fold.AHEAD, fold.BEHIND, fold.COLUMNS))
        return torch.stack([below, *tokens], dim=-2)

    below, *tokens = fold.per_row(map_or_system, counts).unbind(dim=-2)
    return below.sum(dim=-1) / fold.in_reach(*tokens).sum(dim=-1)


@checked
def smallest_entry(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The smallest entry of the map; negative if any entry is.

    >>> smallest_entry(torch.tensor([[1.0, 0.0], [-0.25, 0.5]]))
    tensor(-0.2500)
    """
    (entry,) = reduced(map_or_system, fold.lowest("smallest_entry"), measure="smallest_entry")
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

    wanted = (fold.negative("convexity_defect"), fold.MASS)
    below, everything = reduced(map_or_system, *wanted, measure="convexity_defect")
    return below + (everything - below - 1).abs()
