"""One pass over the rows of a map by the fastest algorithm for its system, for many reductions.

Exact, or with a stated error bound: truncated where a bound on all earlier columns is small enough.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.evaluate.loops import TILE, Heads, heads_of, stored_parts
from dsf.evaluate.memory_plan import check_plan, statistics_bytes
from dsf.measures import fold
from dsf.measures.fold import KINDS, NORM, Progress, Reduced, RowReduction, all_safe
from dsf.runtime.argument_checks import checked
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies
from dsf.systems.system import System


def limit(error: float, steps: int) -> tuple[float, float]:
    """What may be left out of a row for an error of at most ``error`` in all of its measures.

    A share p of its weight, which changes the entropy of a row of n tokens by at most
    ``p log n + h(p)``, with ``h(p) <= p (1 + log 1/p)`` the binary entropy of p; and a change of
    the mean distance, in tokens.
    """
    share = error / (2 * (1 + math.log(1 / error) + math.log(steps + 1))) if error else 0.0
    return share, error


MOST_TILES = 16  # tiles of a chunk of columns: its 64 x 1024 scores fit the cache


def of_heads(
    heads: Heads,
    wanted: Sequence[RowReduction],
    *,
    error: float = 0.0,
    progress: Progress | None = None,
) -> Reduced:
    """Those of ``wanted`` that sums over tiles find, one tile of rows of a group after the other.

    The norm is not among them where squares of entries leave the range of numbers.
    """
    groups, number, steps = heads.decay.shape
    near = [each for each in wanted if each.name == "near"]
    index = {each: KINDS.index(each.name) for each in wanted if each.name in KINDS[:-1]}
    index |= {each: KINDS.index("near") + k for k, each in enumerate(near)}
    numbers = {each: heads.decay.new_zeros(groups, number, steps) for each in index}
    left, visited = torch.zeros(groups, number, dtype=torch.float64), 0
    for group in range(groups):
        fold = _HeadFold(heads, group, list(index), limit(error, steps))
        for tile in range(heads.tiles):
            rows = slice(tile * TILE, min(steps, (tile + 1) * TILE))
            statistics, missed, seen = fold.tile(tile, rows)
            if not all_safe(statistics[:, KINDS.index("largest")]):
                numbers.pop(NORM, None)
            energy = statistics[:, KINDS.index("norm")]
            np.sqrt(energy, out=energy)
            for each, part in numbers.items():
                part[group, :, rows] = torch.from_numpy(statistics[:, index[each]])
            left[group] = torch.maximum(left[group], torch.from_numpy(missed))
            visited += seen
            if progress is not None:
                progress(group * steps + rows.stop, groups * steps)
    found = {each: heads.in_batch(part) for each, part in numbers.items()}
    in_reach = groups * number * steps * (steps + 1) / 2
    return Reduced(found, error, heads.in_batch(left), visited / in_reach)


class _HeadFold:
    """One group of heads: products of decays for all tokens, and the reductions of one tile."""

    def __init__(
        self, heads: Heads, group: int, wanted: Sequence[RowReduction], limit: tuple[float, float]
    ) -> None:
        from dsf.systems.kernels.scalar_tiles import all_before, suffixes

        self.peaks = any(each.name in ("norm", "largest", "lowest") for each in wanted)
        self.widths = np.array([each.token for each in wanted if each.name == "near"], dtype=int)
        self.limit, self.before = limit, heads.before
        self.read, self.write = heads.read[group], heads.write[group]
        self.decay, self.step = heads.decay[group].contiguous(), heads.step[group].contiguous()
        self.feedthrough = heads.feedthrough[group]
        number = self.decay.shape[0]
        self.factor = torch.empty_like(self.decay)
        self.product = np.empty((number, heads.tiles))
        suffixes(self.decay.numpy(), self.step.numpy(), self.factor.numpy(), self.product)
        self.logs = _logs(self.factor)
        weight = self.step * self.write.norm(dim=-1)
        self.mass, self.lagged = np.zeros((2, number, heads.tiles))
        all_before(self.decay.numpy(), weight.numpy(), self.mass, self.lagged)
        self.sizes = self.read.norm(dim=-1).double().numpy()
        self.scores = self.read.new_empty(MOST_TILES * TILE * TILE)
        self.parts = self.read.new_empty(3 * MOST_TILES * TILE * TILE)

    def tile(self, tile: int, rows: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """All sums for all heads and these rows, the share left out, and the entries computed."""
        from dsf.systems.kernels.scalar_tiles import sum_tiles

        number, count = len(self.decay), rows.stop - rows.start
        state = _State(number, tile, len(self.widths))
        read = torch.nn.functional.pad(self.read[rows], (0, 0, 0, TILE - count))
        self._own(read, rows, state)
        factors = self.factor.numpy(), self.logs.numpy(), self.product
        active, visited = self._unfinished(np.arange(number), rows, state), 0
        while len(active):
            last = int(state.stops[active].max())
            first = max(last - MOST_TILES, int(state.firsts[active].min()))
            parts = self._parts(self.write[first * TILE : last * TILE], read)
            spans, decays = (state.firsts, state.stops), (state.reach, state.log_reach, state.gap)
            asked = (rows.start, self.widths, self.peaks)
            tiles = sum_tiles(parts, first, factors, active, spans, decays, asked, state.statistics)
            visited += tiles * count * TILE
            active = self._unfinished(active, rows, state)
        visited += number * count * (count + 1) // 2
        return state.statistics.reshape(number, -1, TILE)[..., :count], state.left, visited

    def _unfinished(self, active: np.ndarray, rows: slice, state: "_State") -> np.ndarray:
        """The heads for which earlier tiles cannot be left out yet."""
        from dsf.systems.kernels.scalar_tiles import still_open

        earlier = self.product, self.mass, self.lagged
        spans, limits = (rows.start, state.stops, MOST_TILES), self.limit
        found = state.statistics, active, state.firsts, state.left
        sizes, reach, gap = self.sizes[rows], state.reach, state.gap
        count = still_open(sizes, reach, gap, earlier, spans, limits, found)
        return active[:count]

    def _own(self, read: Tensor, rows: slice, state: "_State") -> None:
        from dsf.systems.kernels.scalar_tiles import sum_own_tile

        numbers = (self.decay, self.step, self.feedthrough)
        # contiguous, as a loop is compiled once for every memory layout
        decay, step, through = (
            part[:, rows].clone(memory_format=torch.contiguous_format) for part in numbers
        )
        logs = _logs(decay), _logs(step)
        arrays = tuple(part.numpy() for part in (decay, step, *logs, through))
        parts = self._parts(self.write[rows], read)
        found = state.statistics, state.reach, state.log_reach
        sum_own_tile(parts, arrays, self.before, self.widths, self.peaks, found)

    def _parts(self, write: Tensor, read: Tensor) -> np.ndarray:
        """Scores of columns and rows: absolute values, those times their logs, negative parts."""
        from dsf.systems.kernels.scalar_tiles import split_scores

        size = len(write) * TILE
        scores = self.scores[:size]
        torch.mm(write, read.mT, out=scores.view(len(write), TILE))
        parts = self.parts[: 3 * size].view(3, size).numpy()
        split_scores(scores.numpy(), *parts)
        return parts


class _State:
    """The sums and bounds of the rows of one tile while earlier tiles are added."""

    def __init__(self, number: int, tile: int, widths: int) -> None:
        self.statistics = np.zeros((number, (KINDS.index("near") + widths) * TILE))
        self.reach, self.log_reach = np.zeros((2, number, TILE))
        self.gap, self.left = np.ones(number), np.zeros(number)
        self.stops, self.firsts = np.full((2, number), tile)


def _logs(size: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Logarithms of absolute values; some finite number for zero, as it is multiplied by zero."""
    return size.clamp(min=torch.finfo(size.dtype).tiny).log_()


Measured = fold.MapOrSystem | fold.Reduced | fold.Requested

# Reductions that only passes over whole rows find, and for which nothing may be left out.
WHOLE = ("sum", "ahead", "behind", "columns", "by lag")


def reduced(source: Measured, *wanted: fold.RowReduction) -> tuple[Shaped[Tensor, "*numbers"], ...]:
    """Reductions of every row, from a pass made before or now; or a record of them."""
    if isinstance(source, fold.Requested):
        source.wanted += wanted
        return tuple(torch.ones(2, 1) if each.adds else torch.ones(1) for each in wanted)
    found = source.found if isinstance(source, fold.Reduced) else one_pass(source, wanted).found
    missing = [each.name for each in wanted if each not in found]
    if missing:
        raise ValueError(
            f"measures: this pass did not collect '{', '.join(missing)}' of every row. Name every "
            "measure when the pass is made, as in measures.streamed(system, measures.row_norms)."
        )
    return tuple(found[each] for each in wanted)


def one_pass(
    source: fold.MapOrSystem,
    wanted: Sequence[fold.RowReduction],
    *,
    error: float = 0.0,
    progress: fold.Progress | None = None,
) -> fold.Reduced:
    source = fold.widened(source)
    heads = _heads(source, wanted)
    if heads is not None:
        system = cast("System", source)
        check_plan(
            "measures",
            statistics_bytes(system, len(wanted)),
            system.device,
            cure="Measure some entries of the batch at a time, or ask for fewer measures at once.",
        )
        made = of_heads(heads, wanted, error=error, progress=progress)
        for each in wanted:
            if each not in made.found:
                made.found[each] = _without_tiles(system, each)
        return made
    entries, rows = 0, None
    if isinstance(source, Tensor):
        entries, rows = source.numel(), source.shape[-1]
    elif isinstance(source, Operator):
        entries = source.batch.numel() * source.steps**2
        rows = source.steps * source.output_size
    collected = fold.Collected(wanted, entries)
    for some in fold.blocks(source):
        collected.add(some)
        if progress is not None and rows is not None:
            progress(collected.done, rows)
    return fold.Reduced(collected.joined(), error)


def _heads(source: fold.MapOrSystem, wanted: Sequence[fold.RowReduction]) -> Heads | None:
    """The heads of a system whose tiles compiled loops reduce; None where whole rows are needed."""
    if not isinstance(source, System) or any(each.name in WHOLE for each in wanted):
        return None
    heads, parts = heads_of(source), stored_parts(source)
    if heads is None or parts is None or source.steps == 1:
        return None
    work = source.batch.numel() * source.steps**2 * heads.read.shape[-1] // 2
    turns = bool((heads.decay < 0).any() or (heads.step < 0).any())
    return None if turns or not applies(*parts, work=work) else heads


def _without_tiles(system: System, each: fold.RowReduction) -> Tensor:
    """A reduction that :func:`of_heads` does not find."""
    token = torch.arange(system.steps, device=system.device)
    if each.name == "written":
        return token.expand(*system.batch, system.steps)
    if each == fold.NORM:
        return torch.cat([fold.NORM.look(rows) for rows in fold.blocks(system)], dim=-1)
    unit = (token == each.token).to(system.dtype).reshape(system.steps, 1, 1)
    signal = unit.expand(*system.batch, system.steps, 1, 1)
    return respond(replace(system, initial=None), signal).abs().flatten(-3)


MOST = 0.1

Measure = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Streamed:
    """Measures of one map, and how much of it was computed.

    Attributes:
        values: one for each measure, in order.
        error: the requested error bound; 0 for an exact pass.
        left_out: the largest share of its absolute weight that a row can have in the entries that
            were not computed, for every map of the batch. A rigorous bound, not an estimate; 0
            where all non-zero entries were computed.
        visited: share of the causal entries that were computed, between 0 and 1.
    """

    values: tuple[Tensor, ...]
    error: float
    left_out: Shaped[Tensor, "*batch"] | float
    visited: float


@checked
def streamed(
    map_or_system: fold.MapOrSystem,
    *measures: Measure,
    error: float = 0.0,
    progress: fold.Progress | None = None,
) -> Streamed:
    """Several measures of one map in one pass over it, without the map.

    With an ``error`` above 0, tiles of the map are skipped where the norms of reads and writes and
    the decays between them prove that all skipped tiles together change no result by more than
    this: a share of the row's absolute weight by at most ``error``, a mean distance by ``error``
    tokens, an entropy by ``error`` nats, a sum of absolute weights by ``error`` times the absolute
    weight of its row; rounding of the number type comes on top. Tiles are skipped for systems with
    one decay a token; the map of other systems is computed completely, and their results are exact.

    Args:
        map_or_system: a map, a system or blocks of rows.
        measures: functions of ``dsf.measures`` that reduce rows one by one, or functions that call
            them, such as ``functools.partial(measures.window_mass, width=64)``.
        error: 0 for exact results.
        progress: called with the number of rows that are done and the total number.

    Raises:
        ValueError: if ``error`` is not between 0 and 0.1, no measure is given, or a measure has no
            bound for an ``error`` above 0.
        TypeError: if a measure cannot be computed row by row.

    Example:
        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> from dsf import measures
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> seen = measures.streamed(system, measures.absolute_gain, measures.mean_distance)
        >>> seen.values
        (tensor(1.7500), tensor([0.0000, 0.3333, 0.5714]))
    """
    if not measures:
        raise ValueError("streamed: needs at least one measure, such as measures.row_entropy.")
    if not 0 <= error <= MOST:
        raise ValueError(f"streamed: 'error' must lie between 0 and {MOST}, but it is {error}.")
    wanted = reductions_of(measures)
    exact = sorted({each.name for each in wanted if each.name in WHOLE})
    if error > 0 and exact:
        raise ValueError(
            f"streamed: with 'error' above 0 only shares, distances, entropies and absolute sums "
            f"of rows have a bound, but these measures need '{', '.join(exact)}' of every row. "
            f"Measure them in a pass of their own, with error=0."
        )
    made = one_pass(map_or_system, wanted, error=error, progress=progress)
    values = tuple(measure(made) for measure in measures)
    return Streamed(values, made.error, made.left_out, made.visited)


def reductions_of(measures: Sequence[Measure]) -> tuple[fold.RowReduction, ...]:
    """The reductions of rows from which all of these measures follow."""
    asked = fold.Requested()
    for measure in measures:
        try:
            measure(asked)
        except (TypeError, AttributeError) as reason:
            name = getattr(measure, "__name__", repr(measure))
            raise TypeError(
                f"streamed: 'measures' holds {name}, which cannot be computed row by row in one "
                f"pass ({reason}). Call it separately, with the map or the system."
            ) from reason
    return tuple(dict.fromkeys(asked.wanted))


def is_streamable(measure: Measure) -> bool:
    try:
        reductions_of([measure])
    except TypeError:
        return False
    return True
