"""A map becomes a system, and a large system a small one, with a bound and the error itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.algebra import with_conjugates
from dsf.composite import ExplicitMap
from dsf.evaluate import attention_map, row_blocks
from dsf.evaluate.cache import kept_rows
from dsf.realisation.walking import Cut, assembled, through_map, through_system
from dsf.system import System

TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Reduction:
    """A smaller system, and how far its map may and does lie from the original's.

    Attributes:
        system: the reduced system; it reads before it updates, with a feedthrough of its own.
        order: states it uses, at the token where it uses most.
        bound: upper bound on the Frobenius norm of the difference of the two maps, known before
            the maps are compared; rounding is allowed for by time x machine epsilon x size.
        error: the Frobenius norm of the difference as measured.
        size: the Frobenius norm of the original map, to hold the two against.
    """

    system: System
    order: int
    bound: Float[Tensor, "*batch"]
    error: Float[Tensor, "*batch"]
    size: Float[Tensor, "*batch"]


def realise(map: Shaped[Tensor, "*batch time time"], *, tolerance: float = TOLERANCE) -> System:
    """The smallest time-varying system that has ``map`` as its map.

    The number of states after each token is the rank of ``map[t+1:, :t+1]``, counted above
    ``tolerance`` times the Frobenius norm of the map; states are padded with zeros to the largest
    number over all tokens (and over the batch). The feedthrough is free, so the system reads before
    it updates. Works in the number type of the map.

    Raises:
        ValueError: if the map is not square, not finite, or not causal (names the entry).

    >>> system = realise(torch.tensor([[1.0, 0, 0], [2, 3, 0], [4, 6, 5]]).double())
    >>> system.state_size
    1
    """
    _realisable(map)
    cut = Cut(tolerance * torch.linalg.matrix_norm(map), None)
    return assembled(list(through_map(map, cut)), "realise")


def reduce(
    map_or_system: Tensor | System | ExplicitMap,
    *,
    order: int | None = None,
    tolerance: float | None = None,
) -> Reduction:
    """A system with fewer states, with a bound on the error and the error itself.

    Keeps, after every token, the directions of the state that the future sees most, given unit
    signals in the past (the leading Hankel singular values).

    Args:
        map_or_system: a causal map, or a causal system (an attention cache goes by its map).
        order: keep at most this many states.
        tolerance: instead, drop singular values below this fraction of the map's Frobenius norm.

    Raises:
        ValueError: unless exactly one of ``order`` and ``tolerance`` is given, in range.
    """
    _one_of(order, tolerance)
    if isinstance(map_or_system, ExplicitMap) or (
        isinstance(map_or_system, System) and kept_rows(map_or_system) is not None
    ):
        map_or_system = attention_map(map_or_system)
    size = _norm(map_or_system)
    cut = Cut((TOLERANCE if tolerance is None else tolerance) * size, order)
    if isinstance(map_or_system, Tensor):
        _realisable(map_or_system)
        tokens = list(through_map(map_or_system, cut))
    else:
        tokens = list(through_system(_plain(map_or_system), cut))
    system = assembled(tokens, "reduce")
    dropped = torch.stack([token.dropped for token in tokens]).sum(dim=0).sqrt()
    rounding = len(tokens) * torch.finfo(size.dtype).eps * size
    return Reduction(
        system=system,
        order=system.state_size,
        bound=dropped + rounding,
        error=_norm_of_difference(map_or_system, system),
        size=size,
    )


def _plain(system: System) -> System:
    if system.runs_backward:
        raise ValueError("reduce: needs a causal system; take dsf.algebra.reverse of it first.")
    return with_conjugates(system) if system.takes_real_part else system


def _norm(map_or_system: Tensor | System) -> Tensor:
    energies = [rows.weights.abs().square().sum(dim=(-2, -1)) for rows in row_blocks(map_or_system)]
    return torch.stack(energies).sum(dim=0).sqrt()


def _norm_of_difference(first: Tensor | System, second: System) -> Tensor:
    pairs = zip(row_blocks(first), row_blocks(second), strict=True)
    energies = [(a.weights - b.weights).abs().square().sum(dim=(-2, -1)) for a, b in pairs]
    return torch.stack(energies).sum(dim=0).sqrt()


def _one_of(order: int | None, tolerance: float | None) -> None:
    if (order is None) == (tolerance is None):
        raise ValueError("reduce: give either 'order' or 'tolerance', and only one of them.")
    if order is not None and order < 1:
        raise ValueError(f"reduce: 'order' must be at least 1, but it is {order}.")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"reduce: 'tolerance' must lie in [0, 1), but it is {tolerance}.")


def _realisable(map: Tensor) -> None:
    if map.ndim < 2 or map.shape[-1] != map.shape[-2]:
        raise ValueError(
            f"realise: needs square maps, but the shape is {tuple(map.shape)}. Pass the whole map, "
            f"not a block of its rows."
        )
    if not bool(map.isfinite().all()):
        raise ValueError("realise: the map holds numbers that are NaN or infinite.")
    ahead = torch.nonzero(map.triu(1))
    if len(ahead):
        raise ValueError(
            f"realise: needs a causal map, but entry {tuple(ahead[0].tolist())} above the diagonal "
            f"is {map[tuple(ahead[0])].item():.3g}. Realise the two triangles on their own."
        )
