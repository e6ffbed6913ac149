"""Sums, signs, norms and gains of a map, what is off its diagonal, and distances of two maps."""

from collections.abc import Iterator
from functools import reduce
from itertools import zip_longest
from typing import TypeGuard, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows, respond
from dsf.evaluate.arguments import check_finite, norm
from dsf.evaluate.loops import stored_parts
from dsf.measures import fold
from dsf.measures.fold import MapOrSystem
from dsf.measures.passes import Measured, reduced
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least
from dsf.systems.algebra import adjoint
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import (
    ExplicitMap,
    Operator,
    SystemSum,
    at_rest,
    kept_rows,
    response_dtype,
)
from dsf.systems.kernels import applies
from dsf.systems.system import System

STEPS = 40
STARTS = 2  # random signals from which a basis is built


@checked
def row_norms(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """The l2 norm of every row.

    >>> row_norms(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    tensor([1., 5.])
    """
    (size,) = reduced(map_or_system, fold.NORM)
    return size


@checked
def column_norms(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch columns"]:
    """The l2 norm of every column: how strongly a key is read by all queries together.

    >>> column_norms(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
    tensor([5., 2.])
    """
    sizes = (norm(rows.weights, dim=-2) for rows in fold.blocks(map_or_system))
    return reduce(torch.hypot, sizes)


@checked
def absolute_gain(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The l-infinity gain of the map: the largest sum of absolute weights in a row.

    >>> absolute_gain(torch.tensor([[1.0, 0.0], [-3.0, 4.0]]))
    tensor(7.)
    """
    (mass,) = reduced(map_or_system, fold.MASS)
    return mass.amax(dim=-1)


@checked
def energy_gain(
    map_or_system: MapOrSystem, *, steps: int = STEPS, seed: int = 0
) -> Shaped[Tensor, "*batch"]:
    """The largest l2 gain of the map, its spectral norm.

    Exact for a matrix, for an attention cache or an explicit map, and for a system whose map has at
    most ``steps`` rows or columns. Otherwise a lower bound by block Lanczos bidiagonalisation
    with the system and its adjoint, without a map; ``steps`` products usually give six digits or
    more. The response to an initial state is not part of the map.

    Raises:
        ValueError: if ``steps`` is below 1, or the map holds NaN or infinite numbers.

    >>> energy_gain(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor(4.)
    """
    at_least(1, "energy_gain", "steps", steps)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"energy_gain: 'seed' must have at most 64 bits, but it is {seed}.")
    source = fold.widened(map_or_system)
    if isinstance(source, SystemSum) or (isinstance(source, System) and kept_rows(source) is None):
        smaller = source.steps * min(source.input_size, source.output_size)
        if smaller > steps:
            return _lanczos(at_rest(source), steps, seed)
    parts = [rows.weights for rows in fold.blocks(source, overwrites=False)]
    return _spectral(torch.cat(parts, dim=-2))


def _spectral(weights: Tensor) -> Tensor:
    check_finite("energy_gain", "map_or_system", weights)
    return torch.linalg.matrix_norm(weights, ord=2)


def _lanczos(system: Operator, steps: int, seed: int) -> Tensor:
    """The norm of the map on a basis that starts from several random signals at once."""
    back = adjoint(system, conjugate=True)
    rng = torch.Generator(device=system.device).manual_seed(seed)
    size = (*system.batch, system.steps * system.input_size, STARTS)
    right = torch.randn(size, generator=rng, dtype=response_dtype(system), device=system.device)
    rights = [torch.linalg.qr(right).Q]
    lefts: list[Tensor] = []
    for _ in range(-(-steps // STARTS)):
        lefts.append(_orthonormal(_apply(system, rights[-1]), lefts))
        rights.append(_orthonormal(_apply(back, lefts[-1]), rights))
    basis = torch.linalg.qr(torch.cat(rights, dim=-1)).Q
    return _spectral(_apply(system, basis))


def _apply(system: Operator, vectors: Tensor) -> Tensor:
    signal = vectors.unflatten(-2, (system.steps, system.input_size))
    return respond(system, signal).flatten(-3, -2)


def _orthonormal(vectors: Tensor, others: list[Tensor]) -> Tensor:
    """An orthonormal basis of ``vectors`` without what lies along ``others``, taken off twice."""
    for _ in range(2):
        for other in others:
            vectors = vectors - other @ (other.mH @ vectors)
        vectors = torch.linalg.qr(vectors).Q
    return vectors


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
        torch.stack([fold.frobenius([a.weights - b.weights]), fold.frobenius([a.weights])])
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
    both = [fold.blocks(source, overwrites=False) for source in (first, second)]
    for a, b in zip_longest(*both):
        if a is None or b is None or a.weights.shape != b.weights.shape:
            shapes = [None if each is None else tuple(each.weights.shape) for each in (a, b)]
            raise ValueError(
                f"{measure}: both maps must have the same size, but their blocks of rows have the "
                f"shapes {shapes[0]} and {shapes[1]}."
            )
        yield a, b


TOKENS = 32
"""Tokens whose coefficients are formed at a time."""


@checked
def off_diagonal_energy(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The sum of squared magnitudes of all weights between different tokens. At least 0.

    For a causal system of one port with a real diagonal transition and fewer states than tokens a
    compiled loop computes it without a map, in time x state² steps, from the energy that unit
    signals leave in the state: the recurrence whose decays are the products of two decays.

    >>> off_diagonal_energy(torch.tensor([[5.0, 0.0], [3.0, 1.0]]))
    tensor(9.)
    """
    if _has_few_states(map_or_system):
        return _from_gramians(map_or_system)
    return fold.total(map_or_system, _between_tokens)


def _between_tokens(rows: Rows) -> Tensor:
    return rows.weights.abs().square().where(rows.lag != 0, 0).sum(dim=(-2, -1))


def _has_few_states(source: MapOrSystem) -> TypeGuard[System]:
    if not isinstance(source, System) or (parts := stored_parts(source)) is None:
        return False
    work = source.steps * source.batch.numel() * source.state_size**2
    return source.state_size <= source.steps and applies(*parts, work=work)


def _from_gramians(system: System) -> Shaped[Tensor, "*batch"]:
    """What the energy in the state, ``B_j B_jᴴ`` of all earlier tokens, leaves in each response."""
    from dsf.systems.kernels.recurrences import add_energies

    size, N = system.batch, system.state_size
    gram = torch.zeros(*size, N, N, dtype=torch.float64)
    found = torch.zeros(size, dtype=torch.float64)
    for start in range(0, system.steps, TOKENS):
        few = system.window(start, min(start + TOKENS, system.steps))
        decay, write, read = few.A.decays(), dense_of(few.B)[..., 0], dense_of(few.C)[..., 0, :]
        add_energies(decay, write, read, into=(gram, found), before=few.reads_before_update)
    return found.to(system.dtype)


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
    (sums,) = reduced(map_or_system, fold.SUM)
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
def column_sums(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch columns"]:
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
    (ahead,) = reduced(map_or_system, fold.AHEAD)
    return ahead.amax(dim=-1)


@checked
def negative_mass(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """Total weight of the negative entries, as a positive number. 0 for softmax attention.

    >>> negative_mass(torch.tensor([[1.0, 0.0], [-0.25, 0.5]]))
    tensor(0.2500)
    """
    (weight,) = reduced(map_or_system, fold.NEGATIVE)
    return weight.sum(dim=-1)


@checked
def negative_share(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """Share of the absolute weight that is negative, between 0 and 1; ``nan`` for a zero map.

    >>> negative_share(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor(0.2500)
    """
    below, everything = reduced(map_or_system, fold.NEGATIVE, fold.MASS)
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
        weights = fold.real(rows)
        below = (weights < 0).sum(dim=-1).to(weights.dtype)
        below = torch.where(weights.isnan().any(dim=-1), torch.nan, below)
        tokens = (each.look(rows) for each in fold.REACH)
        return torch.stack([below, *tokens], dim=-2)

    below, *tokens = fold.per_row(map_or_system, counts).unbind(dim=-2)
    return below.sum(dim=-1) / fold.in_reach(*tokens).sum(dim=-1)


@checked
def smallest_entry(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The smallest entry of the map; negative if any entry is.

    >>> smallest_entry(torch.tensor([[1.0, 0.0], [-0.25, 0.5]]))
    tensor(-0.2500)
    """
    (entry,) = reduced(map_or_system, fold.LOWEST)
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
    below, everything = reduced(map_or_system, fold.NEGATIVE, fold.MASS)
    return below + (everything - below - 1).abs()
