"""Realisation of a map as a system, and order reduction with an error bound and measured error."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dsf.algebra import with_conjugates
from dsf.composite import ExplicitMap
from dsf.evaluate import attention_map, row_blocks
from dsf.evaluate.cache import kept_rows
from dsf.evaluate.windows.folding import fold
from dsf.system import System
from dsf.transition import Dense


class Token(NamedTuple):
    """The reduced coefficients of one token, in the state coordinates before and after it."""

    A: Shaped[Tensor, "*batch kept before"]
    B: Shaped[Tensor, "*batch kept input"]
    C: Shaped[Tensor, "*batch output before"]
    D: Shaped[Tensor, "*batch output input"]
    dropped: Shaped[Tensor, "*batch"]


class Cut(NamedTuple):
    """Which singular directions are kept: those above a threshold, at most ``order`` of them."""

    threshold: Shaped[Tensor, "*batch"]
    order: int | None

    def mask(self, values: Shaped[Tensor, "*batch direction"]) -> Bool[Tensor, "*batch direction"]:
        kept = values > self.threshold.unsqueeze(-1)
        if self.order is not None:
            kept[..., self.order :] = False
        return kept


def through_map(map: Tensor, cut: Cut) -> Iterator[Token]:
    """The reduced coefficients of a map, token by token.

    Carries the rows of the map of all later tokens, expressed in the current state.
    """
    steps = map.shape[-1]
    future = map[..., :, :0]
    for t in range(steps):
        read, ahead = future[..., :1, :], future[..., 1:, :]
        seen = torch.cat([ahead, map[..., t + 1 :, t : t + 1]], dim=-1)
        left, values, right, dropped = _split(seen, cut)
        width = read.shape[-1]
        feedthrough = map[..., t : t + 1, t : t + 1]
        yield Token(right[..., :width], right[..., width:], read, feedthrough, dropped)
        future = left * values.unsqueeze(-2)


def through_system(system: System, cut: Cut) -> Iterator[Token]:
    """The reduced coefficients of a system, token by token.

    Carries a basis that expresses the original state in the coordinates that are kept.
    """
    futures = list(_futures(system))[::-1]
    size = (*system.batch, system.state_size, 0)
    basis = torch.zeros(size, dtype=system.dtype, device=system.device)
    for t, future in enumerate(futures):
        token = system.window(t, t + 1)
        B, C, D = (
            torch.as_tensor(part).squeeze(-3).to(system.dtype)
            for part in (token.B, token.C, token.feedthrough)
        )
        carried = (token.A @ basis.unsqueeze(-3)).squeeze(-3)
        images = torch.cat([carried, B], dim=-1)
        right, dropped = _split(future @ images, cut)[2:]
        width = basis.shape[-1]
        before = system.reads_before_update
        read = C @ (basis if before else carried)
        through = D if before else D + C @ B
        yield Token(right[..., :width], right[..., width:], read, through, dropped)
        basis = images @ right.mH


def _futures(system: System) -> Iterator[Tensor]:
    """Triangular factors of the observability Gramian after every token, the last token first."""
    size = (*system.batch, system.state_size, system.state_size)
    factor = torch.zeros(size, dtype=system.dtype, device=system.device)
    for t in range(system.steps - 1, -1, -1):
        yield factor
        panel = fold(system, t, t + 1)
        stacked = torch.cat([panel.reach, panel.seen_before(factor)], dim=-2)
        factor = torch.linalg.qr(stacked, mode="r").R


def _split(seen: Tensor, cut: Cut) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The singular directions that are kept, and the energy of those that are dropped."""
    left, values, right = torch.linalg.svd(seen, full_matrices=False)
    kept = cut.mask(values)
    dropped = values.square().where(~kept, 0).sum(dim=-1)
    width = int(kept.sum(dim=-1).max()) if kept.numel() else 0
    right = right * kept.unsqueeze(-1)
    values = values * kept
    return left[..., :width], values[..., :width], right[..., :width, :], dropped


def assembled(tokens: list[Token], owner: str) -> System:
    states = max(1, *(token.A.shape[-2] for token in tokens))

    def padded(part: Tensor, rows: int | None, columns: int | None) -> Tensor:
        right = 0 if columns is None else columns - part.shape[-1]
        down = 0 if rows is None else rows - part.shape[-2]
        return torch.nn.functional.pad(part, (0, right, 0, down))

    if not tokens:
        raise ValueError(f"{owner}: the map has no tokens.")
    A = torch.stack([padded(token.A, states, states) for token in tokens], dim=-3)
    B = torch.stack([padded(token.B, states, None) for token in tokens], dim=-3)
    C = torch.stack([padded(token.C, None, states) for token in tokens], dim=-3)
    D = torch.stack([token.D for token in tokens], dim=-3)
    return System(Dense(A), B, C, D, reads_before_update=True)


TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Reduction:
    """A smaller system, with a bound on the error of its map and the error as measured.

    Attributes:
        system: the reduced system; it reads before it updates, with a feedthrough of its own.
        order: number of states at the token that needs most.
        bound: upper bound on the Frobenius norm of the difference of the two maps, known before
            the maps are compared; time x machine epsilon x size is added for rounding.
        error: the Frobenius norm of the difference as measured.
        size: the Frobenius norm of the original map, the scale of bound and error.
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
    number over all tokens (and over the batch). The system reads before the update, so that the
    diagonal of the map is its feedthrough D. Works in the number type of the map.

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
    """A system with fewer states, with a bound on the error and the error as measured.

    After every token it keeps the directions of the state with the largest Hankel singular values:
    those that carry most from unit signals in the past to later responses.

    Args:
        map_or_system: a causal map, or a causal system (for an attention cache its map is used).
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
        raise ValueError(
            "reduce: needs a causal system, but this one runs backward. "
            "Reverse it first: dsf.algebra.reverse(system)."
        )
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
            f"is {map[tuple(ahead[0])].item():.3g}. Realise the two triangles separately."
        )
