"""Realisation of a map as a system, and order reduction with an error bound and measured error."""

import decimal
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from itertools import pairwise, product
from math import inf, nextafter
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Inexact, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.arguments import check_finite, check_forward, norm
from dsf.evaluate.enclosure import enclosed_rows, has_enclosure
from dsf.evaluate.invariant import first_token
from dsf.evaluate.maps import attention_map, row_blocks
from dsf.evaluate.windows import fold
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import a_share, at_least
from dsf.systems.algebra import with_conjugates
from dsf.systems.composite import ExplicitMap, kept_rows
from dsf.systems.system import System
from dsf.systems.transition import Dense, Diagonal, DiagonalPlusLowRank, Kronecker, ScaledIdentity

WINDOW = 64
"""Tokens that are folded at once where a system has few states: their own map is formed with it."""
GATHERED = 4
"""Writes or reads gathered, as a multiple of the states, before they are made triangular."""


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
    """The reduced coefficients of a map, token by token, from the rows of all later tokens."""
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
    """The reduced coefficients of a system, by a basis of its state in the kept coordinates."""
    futures = list(observed(system, range(system.steps)))[::-1]
    size = (*system.batch, system.state_size, 0)
    basis = torch.zeros(size, dtype=system.dtype, device=system.device)
    for t, future in enumerate(futures):
        A, B, C, D = first_token(system.cut(t, t + 1), system.dtype)
        carried = (A @ basis.unsqueeze(-3)).squeeze(-3)
        images = torch.cat([carried, B], dim=-1)
        right, dropped = _split(future @ images, cut)[2:]
        width = basis.shape[-1]
        before = system.reads_before_update
        read = C @ (basis if before else carried)
        through = D if before else D + C @ B
        yield Token(right[..., :width], right[..., width:], read, through, dropped)
        basis = images @ right.mH


def triangular(tall: Shaped[Tensor, "*batch rows state"]) -> Shaped[Tensor, "*batch state state"]:
    """A matrix with the same Gramian."""
    found = torch.linalg.qr(tall, mode="r").R
    return pad(found, (0, 0, 0, found.shape[-1] - found.shape[-2]))


def observed(system: System, positions: Sequence[int]) -> Iterator[Tensor]:
    """Factors F with Fᴴ F the observability Gramian after each position, the last one first."""
    states = system.state_size
    factor = torch.zeros((*system.batch, 0, states), dtype=system.dtype, device=system.device)
    for stop, start in pairwise([system.steps, *(t + 1 for t in reversed(positions))]):
        for end in range(stop, start, -WINDOW):
            panel = fold(system, max(end - WINDOW, start), end)
            factor = torch.cat([panel.reach, panel.seen_before(factor)], dim=-2)
            if factor.shape[-2] > GATHERED * max(states, WINDOW):
                factor = triangular(factor)
        factor = triangular(factor)
        yield factor


def _split(seen: Tensor, cut: Cut) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, values, right = torch.linalg.svd(seen, full_matrices=False)
    kept = cut.mask(values)
    dropped = norm(values.where(~kept, 0))
    width = int(kept.sum(dim=-1).max()) if kept.numel() else 0
    right = right * kept.unsqueeze(-1)
    values = values * kept
    return left[..., :width], values[..., :width], right[..., :width, :], dropped


def assembled(tokens: list[Token]) -> System:
    states = max(1, *(token.A.shape[-2] for token in tokens))

    def deepened(part: Tensor) -> Tensor:
        return pad(part, (0, 0, 0, states - part.shape[-2]))

    def widened(part: Tensor) -> Tensor:
        return pad(part, (0, states - part.shape[-1]))

    A = torch.stack([deepened(widened(token.A)) for token in tokens], dim=-3)
    B = torch.stack([deepened(token.B) for token in tokens], dim=-3)
    C = torch.stack([widened(token.C) for token in tokens], dim=-3)
    D = torch.stack([token.D for token in tokens], dim=-3)
    return System(Dense(A), B, C, D, reads_before_update=True)


TOLERANCE = 1e-12
SINGLE = 4  # bytes of the smallest numbers for which torch has decompositions
NORMS = 2.0**-36  # above the relative rounding of any norm below
LITTLE = 2.0**-20  # of the size of a map: rounding above that says nothing
EnclosedRows = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Reduction:
    """A smaller system, with a bound on the error of its map and the error as measured.

    Attributes:
        system: the reduced system; it reads before it updates, with a feedthrough of its own.
        order: number of states at the token that needs most.
        bound: proven upper bound on the Frobenius norm of the difference of the two maps that the
            stored coefficients define: ``error + rounding``, rounded up. ``inf`` where rounding
            cannot be bounded.
        error: the Frobenius norm of the difference as measured, in float64.
        rounding: how far rounding may have moved both maps while they were compared, from their
            enclosures (``attention_map(system, enclosed=True)``). Where states are in a bad basis,
            these say nothing: small systems of real stored numbers (a million products) are then
            multiplied out exactly, for larger ones it is far above ``error``.
        dropped: what the dropped Hankel singular values amount to, the root of the sum of their
            squares: the error without any rounding, known before the maps are compared.
        size: the Frobenius norm of the original map, the scale of all of these.
    """

    system: System
    order: int
    bound: Float[Tensor, "*batch"]
    error: Float[Tensor, "*batch"]
    rounding: Float[Tensor, "*batch"]
    dropped: Float[Tensor, "*batch"]
    size: Float[Tensor, "*batch"]


@checked
def realise(map: Inexact[Tensor, "*batch time time"], *, tolerance: float = TOLERANCE) -> System:
    """The smallest time-varying system that has ``map`` as its map.

    The number of states after each token is the rank of ``map[t+1:, :t+1]``, counted above
    ``tolerance`` times the Frobenius norm of the map; states are padded with zeros to the largest
    number over all tokens (and over the batch). The system reads before the update, so that the
    diagonal of the map is its feedthrough D. Works in the number type of the map.

    Raises:
        ValueError: if the map is not square, not finite, or not causal (names the entry), or the
            tolerance no share.

    >>> system = realise(torch.tensor([[1.0, 0, 0], [2, 3, 0], [4, 6, 5]]).double())
    >>> system.state_size
    1
    """
    a_share("realise", "tolerance", tolerance)
    _realisable(map)
    cut = Cut(tolerance * norm(map, (-2, -1)), None)
    return assembled(list(through_map(map, cut)))


@checked
def reduce(
    map_or_system: Inexact[Tensor, "*batch time time"] | System | ExplicitMap,
    *,
    order: int | None = None,
    tolerance: float | None = None,
) -> Reduction:
    """A system with fewer states, with a bound on the error and the error as measured.

    After every token it keeps the directions of the state with the largest Hankel singular values:
    those that carry most from unit signals in the past to later responses.

    Args:
        map_or_system: a causal map, or a causal system. For an attention cache its map is used,
            and where no enclosure of that is known, the bound is on the distance from the map as
            computed.
        order: keep at most this many states.
        tolerance: instead, drop singular values below this fraction of the map's Frobenius norm.

    Raises:
        ValueError: unless exactly one of ``order`` and ``tolerance`` is given, in range.
    """
    if (order is None) == (tolerance is None):
        raise ValueError("reduce: give either 'order' or 'tolerance', and only one of them.")
    if order is not None:
        at_least(1, "reduce", "order", order)
    if tolerance is not None:
        a_share("reduce", "tolerance", tolerance)
    if isinstance(map_or_system, ExplicitMap) or (
        isinstance(map_or_system, System) and kept_rows(map_or_system) is not None
    ):
        original = enclosed_rows(map_or_system) if has_enclosure(map_or_system) else None
        map_or_system = attention_map(map_or_system)
    else:
        original = None
    if isinstance(map_or_system, Tensor):
        _realisable(map_or_system)
    else:
        check_forward("reduce", map_or_system)
        if map_or_system.takes_real_part:
            map_or_system = with_conjugates(map_or_system)
    size = _joined(norm(rows.weights, (-2, -1)) for rows in row_blocks(map_or_system))
    cut = Cut((TOLERANCE if tolerance is None else tolerance) * size, order)
    if isinstance(map_or_system, Tensor):
        tokens = list(through_map(map_or_system, cut))
        original = original or ((row, 0 * row.abs()) for row in map_or_system.split(1, dim=-2))
    else:
        tokens = list(through_system(map_or_system, cut))
        original = enclosed_rows(map_or_system)
    system = assembled(tokens)
    error, rounding = _apart(original, enclosed_rows(system))
    says_nothing = bool((rounding > torch.maximum(error, LITTLE * size.to(error))).any())
    first = map_or_system
    if says_nothing and isinstance(first, System) and _is_small(first) and _is_small(system):
        entries = product(*map(range, first.batch))
        exact = [_exact_distance(first, system, index) for index in entries]
        error = torch.tensor(exact, dtype=torch.float64).reshape(first.batch)
        rounding = torch.where(error.isfinite(), NORMS * error, torch.inf)
    return Reduction(
        system=system,
        order=system.state_size,
        bound=_rounded_up(error + rounding, size),
        error=error.to(size),
        rounding=_rounded_up(rounding, size),
        dropped=_joined(token.dropped for token in tokens),
        size=size,
    )


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.hypot, parts)


def _apart(first: EnclosedRows, second: EnclosedRows) -> tuple[Tensor, Tensor]:
    """The Frobenius norm of the difference as measured, and a bound on what rounding adds."""
    found = []
    for (stored, radius), (there, other) in zip(first, second, strict=True):
        dtype = torch.promote_types(stored.dtype, torch.float64)
        difference = stored.to(there.device, dtype) - there
        uncertain = radius.to(other) + other + torch.finfo(torch.float64).eps * difference.abs()
        found.append([norm(difference, (-2, -1)), norm(uncertain, (-2, -1))])
    error, rounding = (_joined(parts) for parts in zip(*found, strict=True))
    # what the norms themselves were rounded by
    rounding = (rounding + NORMS * error) * (1 + NORMS)
    return error, torch.where(error.isfinite() & rounding.isfinite(), rounding, torch.inf)


MAX_EXACT_PRODUCTS = 1 << 20
"""Products of long decimal numbers, a few microseconds each."""
STORED = (Dense, Diagonal, DiagonalPlusLowRank, Kronecker, ScaledIdentity)


def _is_small(system: System) -> bool:
    """Whether the map of a system can be had without any rounding within a few seconds."""
    states, outputs = system.state_size, system.output_size
    columns = system.steps**2 * system.input_size
    work = columns * states * (states + outputs) + system.steps * states**3
    parts = (system.B, system.C, system.feedthrough)
    return (
        system.batch.numel() * work <= MAX_EXACT_PRODUCTS
        and isinstance(system.A, STORED)
        and all(isinstance(part, Tensor) and bool(part.isfinite().all()) for part in parts)
        and not system.dtype.is_complex
        and not system.runs_backward
        and bool(system.A.dense().isfinite().all())
    )


def _exact_distance(first: System, second: System, index: tuple[int, ...]) -> float:
    """The Frobenius norm of the difference of two maps of stored numbers, rounded up."""
    most, least = decimal.MAX_EMAX, decimal.MIN_EMIN
    exact = Context(prec=decimal.MAX_PREC, Emax=most, Emin=least, traps=[decimal.Inexact])
    with decimal.localcontext(exact):
        rows = zip(_exact_rows(first, index), _exact_rows(second, index), strict=True)
        found = sum((((one - other) * (one - other)).sum() for one, other in rows), Decimal(0))
    root = float(found.sqrt(Context(prec=60, Emax=most, Emin=least)))
    return nextafter(root, inf) if found else 0.0


def _exact_rows(system: System, index: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The rows of every token, up to its own columns, of one entry of the batch."""
    A = system.A
    parts = [system.B, system.C, system.feedthrough]
    if isinstance(A, DiagonalPlusLowRank):  # written out, it would be rounded
        parts += [torch.diag_embed(A.decay), A.left, A.right.mT]
    else:
        parts.append(A.dense())
    chosen = [
        torch.as_tensor(part).expand(*system.batch, system.steps, -1, -1)[index] for part in parts
    ]
    state = np.zeros((system.state_size, 0), dtype=object)
    for t in range(system.steps):
        B, C, D, move, *update = (
            np.array([*map(Decimal, part[t].double().flatten().tolist())], dtype=object).reshape(
                part[t].shape
            )
            for part in chosen
        )
        if update:
            move = move + update[0] @ update[1]
        before, state = state, np.hstack([move @ state, B])
        if system.reads_before_update:
            yield np.hstack([C @ before, D])
        else:
            rows = C @ state
            rows[:, -system.input_size :] += D
            yield rows


def _rounded_up(bound: Tensor, like: Tensor) -> Tensor:
    there = bound.to(like.dtype)
    above = torch.nextafter(there, torch.full_like(there, torch.inf))
    return torch.where(there.to(bound) < bound * (1 + NORMS), above, there).to(like.device)


def _realisable(map: Tensor) -> None:
    if map.dtype.itemsize < SINGLE:
        kind = str(map.dtype).removeprefix("torch.")
        raise TypeError(
            f"realise: the map has the number type {kind}, in which nothing is decomposed. Convert "
            f"it first, for example with .double()."
        )
    if map.shape[-1] != map.shape[-2]:
        raise ValueError(
            f"realise: needs square maps, but the shape is {tuple(map.shape)}. Pass the whole map, "
            f"not a block of its rows."
        )
    check_finite("realise", "map", map)
    ahead = torch.nonzero(map.triu(1))
    if len(ahead):
        raise ValueError(
            f"realise: needs a causal map, but entry {tuple(ahead[0].tolist())} above the diagonal "
            f"is {map[tuple(ahead[0])].item():.3g}. Realise the two triangles separately."
        )
