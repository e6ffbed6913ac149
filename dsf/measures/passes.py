"""One pass over the rows of a map by the fastest algorithm for its system, for many reductions.

``streamed`` gives many measures of one map in a single pass, exact or with a stated error bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.evaluate.compiled import stored_parts
from dsf.evaluate.loops import Heads, heads_of
from dsf.evaluate.memory_plan import check_plan, statistics_bytes
from dsf.measures import fold
from dsf.measures.head_pass import of_heads
from dsf.runtime.argument_checks import checked
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies
from dsf.systems.system import System

Measured = fold.MapOrSystem | fold.Reduced | fold.Requested

# Reductions that only passes over whole rows find, and for which nothing may be left out.
WHOLE = ("sum", "ahead", "behind", "columns", "by lag")


def reduced(
    source: Measured, *wanted: fold.RowReduction, measure: str
) -> tuple[Shaped[Tensor, "*numbers"], ...]:
    """Reductions of every row: from the results of a pass, or from an exact pass made now."""
    if isinstance(source, fold.Reduced | fold.Requested):
        return fold.from_pass(source, wanted, measure)
    found = one_pass(source, wanted).found
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
    if heads is None:
        return _of_whole_rows(source, wanted, error, progress)
    check_plan(
        "measures",
        statistics_bytes(cast("System", source), len(wanted)),
        cast("System", source).device,
        cure="Measure some entries of the batch at a time, or ask for fewer measures at once.",
    )
    made = of_heads(heads, wanted, error=error, progress=progress)
    for each in wanted:
        if each not in made.found:
            made.found[each] = _without_tiles(cast("System", source), each)
    return made


def _of_whole_rows(
    source: fold.MapOrSystem,
    wanted: Sequence[fold.RowReduction],
    error: float,
    progress: fold.Progress | None,
) -> fold.Reduced:
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
