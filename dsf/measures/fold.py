"""Reductions of a map, written once as folds over blocks of rows.

They take a matrix, a system whose map never fits, or the blocks themselves.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from dsf.evaluate import Rows, row_blocks
from dsf.evaluate.arguments import norm, safe_range
from dsf.evaluate.maps import SIZE
from dsf.runtime.threads import in_parallel, shares
from dsf.systems.algebra import converted
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies

Map = Inexact[Tensor, "*batch rows columns"]
MapOrSystem = Map | Operator | Iterable[Rows]
Look = Callable[[Rows], Tensor]
NARROW = (torch.float16, torch.bfloat16, torch.complex32)
ENTRIES = 1 << 25  # of one block of rows, over the whole batch: 128 MB in float32


def blocks(map_or_system: MapOrSystem, *, overwrites: bool = True) -> Iterator[Rows]:
    """Blocks of rows, with fewer rows at a time for large batches and long sequences.

    A block may reuse the memory of the one before, so it must not be stored, unless ``overwrites``
    is False. Numbers of 16 and 8 bits are widened to float32, in which sums of their squares fit.
    """
    source, rows = widened(map_or_system), None
    sizes: dict[str, Any] = {}
    if isinstance(source, Operator):
        columns = getattr(source, "read_steps", source.steps) * source.input_size
        row = source.batch.numel() * source.output_size * columns
        sizes = {"size": min(SIZE, max(1, ENTRIES // max(row, 1))), "overwrites": overwrites}
    for rows in row_blocks(source, **sizes):
        if not isinstance(rows, Rows):
            raise TypeError(
                "measures: a map is a tensor, a system or blocks of rows "
                f"(dsf.evaluate.row_blocks), but it is {type(map_or_system).__name__}."
            )
        _measurable(rows.weights)
        yield rows._replace(weights=_wide(rows.weights).resolve_conj().resolve_neg())
    if rows is None:
        raise ValueError("measures: got no blocks of rows. Pass at least one.")


Source = TypeVar("Source", bound=MapOrSystem)


def widened(map_or_system: Source) -> Source:
    """A map or a system in numbers of 16 bits in float32, anything else as it is."""
    if isinstance(map_or_system, Tensor):
        return cast("Source", _wide(map_or_system))
    if isinstance(map_or_system, Operator) and map_or_system.dtype in NARROW:
        return converted(map_or_system, dtype=torch.float32)
    return map_or_system


def _wide(weights: Tensor) -> Tensor:
    dtype = weights.dtype
    if dtype is torch.complex32:
        return weights.to(torch.complex64)
    return weights.float() if dtype.is_floating_point and dtype.itemsize < 4 else weights


def _measurable(weights: Tensor) -> None:
    if not (weights.is_floating_point() or weights.is_complex()):
        kind = str(weights.dtype).removeprefix("torch.")
        raise TypeError(
            f"measures: the weights of the map have the number type {kind}, but measures need real "
            f"or complex numbers. Convert the map first, for example with .double()."
        )
    if 0 in weights.shape[-2:]:
        rows, columns = weights.shape[-2:]
        raise ValueError(
            f"measures: the map has {rows} rows and {columns} columns, so there is nothing to "
            f"measure. It needs at least one token."
        )


def a_token(measure: str, name: str, token: int, map_or_system: object) -> int:
    """``token``, if it is one of those that the map reads, as far as they are known beforehand."""
    tokens = None
    if isinstance(map_or_system, Tensor):
        tokens = map_or_system.shape[-1]
    elif isinstance(map_or_system, Operator):
        tokens = getattr(map_or_system, "read_steps", map_or_system.steps)
    if token < 0 or (tokens is not None and token >= tokens):
        last = "" if tokens is None else f" to {tokens - 1}"
        raise IndexError(f"{measure}: '{name}' must be a token from 0{last}, but it is {token}.")
    return min(token, 2**62)  # a larger one is none, and no number of torch


def all_safe(largest: np.ndarray) -> bool:
    """Whether sums of squares of rows with these largest magnitudes keep all their digits."""
    least, most = safe_range(torch.float64)
    return bool(((largest == 0) | ((largest >= least) & (largest <= most))).all())


def frobenius(parts: Iterable[Tensor]) -> Tensor:
    """The Frobenius norm of a map over ``*batch``, from its blocks of rows."""
    return reduce(torch.hypot, (norm(part, dim=(-2, -1)) for part in parts))


def per_row(map_or_system: MapOrSystem, look: Look) -> Shaped[Tensor, "*numbers rows"]:
    return torch.cat([look(rows) for rows in blocks(map_or_system)], dim=-1)


def total(map_or_system: MapOrSystem, look: Look) -> Tensor:
    return reduce(torch.add, (look(rows) for rows in blocks(map_or_system)))


def real(rows: Rows) -> Tensor:
    """The weights, which must be real for their signs to be defined."""
    if rows.weights.is_complex():
        raise ValueError(
            "measures: signs need a real map, but 'map_or_system' is complex. Measure the "
            "magnitudes (map.abs()) or the real part (map.real) instead."
        )
    return rows.weights


# What compiled loops compute of every row, in their order; "near" once for each requested width.
KINDS = ("mass", "negative", "norm", "surprise", "distance", "largest", "lowest", "near")


@dataclass(frozen=True)
class RowReduction:
    """One number for every row, computed by ``look`` or, in a pass, by a faster algorithm.

    Attributes:
        token: for "near" a width in tokens, for "on" the token.
        adds: whether the results of blocks of rows are added up, instead of being numbers for
            their rows.
    """

    name: str
    look: Look = field(compare=False, repr=False)
    token: int = 0
    adds: bool = False


def _surprise(rows: Rows) -> Tensor:
    weight = rows.weights.abs()
    return (weight * torch.where(weight > 0, weight, 1).log()).sum(dim=-1)


MASS = RowReduction("mass", lambda rows: rows.weights.norm(p=1, dim=-1))
NORM = RowReduction("norm", lambda rows: norm(rows.weights))  # the l2 norm
SURPRISE = RowReduction("surprise", _surprise)  # sum of |w| log |w|
DISTANCE = RowReduction("distance", lambda rows: (rows.weights.abs() * rows.lag.abs()).sum(dim=-1))
LARGEST = RowReduction("largest", lambda rows: rows.weights.abs().amax(dim=-1))
SUM = RowReduction("sum", lambda rows: rows.weights.sum(dim=-1))
AHEAD = RowReduction("ahead", lambda rows: rows.weights.abs().where(rows.lag < 0, 0).amax(dim=-1))
WRITTEN = RowReduction("written", lambda rows: rows.written.expand(rows.weights.shape[:-1]))


def _counted(columns: Callable[[Rows], Tensor]) -> Look:
    def look(rows: Rows) -> Tensor:
        weights = rows.weights
        return columns(rows).sum(dim=-1).to(weights.abs().dtype).expand(weights.shape[:-1])

    return look


# How many columns belong to the tokens up to the row's own, and how many there are.
BEHIND = RowReduction("behind", _counted(lambda rows: rows.lag >= 0))
COLUMNS = RowReduction("columns", _counted(lambda rows: torch.ones_like(rows.lag)))
REACH = (AHEAD, BEHIND, COLUMNS)


def in_reach(ahead: Tensor, behind: Tensor, columns: Tensor) -> Tensor:
    """Return how many keys each query may read: up to its own if the map is causal, else all.

    A map is causal if none of its rows has weight on later tokens; single rows do not decide it.
    """
    is_causal = (ahead == 0).all(dim=-1, keepdim=True)
    return torch.where(is_causal, behind, columns)


def _by_lag(rows: Rows) -> Tensor:
    lag = rows.lag
    index = lag.clamp(min=0).flatten()
    weight = rows.weights.abs().where(lag >= 0, 0).flatten(-2)
    sums = weight.new_zeros(*weight.shape[:-1], int(rows.written.max()) + 1)
    sums = sums.index_add(-1, index, weight)
    counts = torch.bincount(index[(lag >= 0).flatten()], minlength=sums.shape[-1])
    return torch.stack([sums, counts.to(sums.dtype).expand_as(sums)])


# The sums of |w| at every lag of at least 0 tokens and how many entries they add, stacked.
BY_LAG = RowReduction("by lag", _by_lag, adds=True)


# The weight of the negative entries, as a positive number.
NEGATIVE = RowReduction("negative", lambda rows: -real(rows).clamp(max=0).sum(dim=-1))
LOWEST = RowReduction("lowest", lambda rows: real(rows).amin(dim=-1))


def near(width: int) -> RowReduction:
    """Absolute weight on the last ``width`` tokens, the row's own included."""

    def look(rows: Rows) -> Tensor:
        reached = (rows.read > rows.written.min() - width) & (rows.read <= rows.written.max())
        lag = rows.lag[:, reached]
        weight = rows.weights[..., reached].where((lag >= 0) & (lag < width), 0)
        return weight.norm(p=1, dim=-1)

    return RowReduction("near", look, width)


def on(token: int) -> RowReduction:
    def look(rows: Rows) -> Tensor:
        return rows.weights[..., rows.read == token].abs().sum(dim=-1)

    return RowReduction("on", look, token)


@dataclass(frozen=True)
class Reduced:
    """The results of a pass, which a measure accepts in place of the map; see ``Streamed``."""

    found: dict[RowReduction, Tensor]
    error: float
    left_out: Shaped[Tensor, "*batch"] | float = 0.0
    visited: float = 1.0


class Requested:
    """A placeholder for a map that records which row reductions a measure needs."""

    def __init__(self) -> None:
        self.wanted: tuple[RowReduction, ...] = ()


Progress = Callable[[int, int], None]


# What the compiled loop computes of every row, in its order; then "near" and "on" by their tokens.
SINGLE = (*KINDS[:-1], "sum", "ahead")
# What is known of rows without their weights.
KNOWN = ("written", "behind", "columns")


class Collected:
    """Reductions of the blocks of rows that were added so far, first to last.

    Compiled loops have to be worth it for ``entries``, those of all blocks together where known.
    """

    def __init__(self, wanted: Sequence[RowReduction], entries: int = 0) -> None:
        self.done, self.entries = 0, entries
        self.parts: dict[RowReduction, list[Tensor]] = {each: [] for each in wanted}

    def add(self, rows: Rows) -> None:
        wanted = list(self.parts)
        if wanted and _compiles(rows, wanted, self.entries):
            results = _compiled(rows, wanted)
        else:
            results = {each: each.look(rows) for each in wanted}
        for each, found in results.items():
            part = self.parts[each]
            if each.adds and part:
                missing = found.shape[-1] - part[0].shape[-1]
                part[0] = torch.nn.functional.pad(part[0], (0, missing)) + found
            else:
                part.append(found)
        self.done += rows.weights.shape[-2]

    def joined(self) -> dict[RowReduction, Tensor]:
        return {each: torch.cat(part, dim=-1) for each, part in self.parts.items()}


def _compiles(rows: Rows, wanted: Sequence[RowReduction], entries: int) -> bool:
    weights, written, read = rows.weights, rows.written, rows.read
    work = max(entries, weights.numel())
    if weights.is_complex() or 0 in weights.shape or not applies(weights, work=work):
        return False
    first, columns = int(written[0]), len(read)
    one_port = torch.equal(read, torch.arange(columns)) and torch.equal(
        written, torch.arange(first, first + len(written))
    )
    by_lag = any(each.adds for each in wanted)
    return one_port and not (by_lag and first + len(written) > columns)


def _compiled(rows: Rows, wanted: Sequence[RowReduction]) -> dict[RowReduction, Tensor]:
    from dsf.systems.kernels.scalar_tiles import BLOCK, WIDTHS, sum_entries

    *batch, count, columns = rows.weights.shape
    weights = rows.weights.detach().reshape(-1, count, columns).numpy()
    near, on = ([each for each in wanted if each.name == name] for name in ("near", "on"))
    index = {each: SINGLE.index(each.name) for each in wanted if each.name in SINGLE}
    index |= {each: WIDTHS + k for k, each in enumerate([*near, *on])}
    widths, tokens = (np.array([each.token for each in part], dtype=int) for part in (near, on))
    statistics = np.empty((len(weights), WIDTHS + len(near) + len(on), count))
    energy = statistics[:, KINDS.index("norm")]
    by_lag = np.zeros((len(weights), columns if BY_LAG in wanted else 0))
    lags, first = np.arange(BLOCK, dtype=float), int(rows.written[0])

    def sum_some(part: slice) -> None:
        asked, into = (lags, first, widths, tokens), (statistics[part], by_lag[part])
        sum_entries(weights[part], *asked, *into)

    in_parallel(sum_some, shares(len(weights)))
    np.sqrt(energy, out=energy)
    found = {
        each: torch.from_numpy(statistics[:, at]).to(rows.weights.dtype).view(*batch, count)
        for each, at in index.items()
    }
    if BY_LAG in wanted:
        reached = first + count
        sums = torch.from_numpy(by_lag[:, ::-1][:, :reached].copy()).to(rows.weights.dtype)
        entries = (reached - torch.arange(reached).clamp(min=first)).to(sums.dtype)
        found[BY_LAG] = torch.stack([sums, entries.expand_as(sums)]).view(2, *batch, reached)
    if NORM in found:
        largest = statistics[:, KINDS.index("largest")]
        found[NORM] = found[NORM] if all_safe(largest) else NORM.look(rows)
    return found | {each: each.look(rows) for each in wanted if each.name in KNOWN}
