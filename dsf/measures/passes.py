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
from dsf.evaluate.heads import heads_of
from dsf.evaluate.memory_plan import check_plan, statistics_bytes
from dsf.measures.fold import MapOrSystem, blocks, widened
from dsf.measures.head_pass import HeadPass
from dsf.measures.row_reductions import (
    NORM,
    Progress,
    Reduced,
    Requested,
    RowReduction,
    from_pass,
)
from dsf.measures.score_pass import ScorePass, scores_of
from dsf.measures.whole_rows import WholeRowPass
from dsf.runtime.argument_checks import checked
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies
from dsf.systems.system import System

Measured = MapOrSystem | Reduced | Requested
RowPass = HeadPass | ScorePass | WholeRowPass

# Reductions that need no pass over the map: linear in it, or independent of it.
NO_PASS = ("on", "written", "behind", "columns")
# Of causal rows these are known beforehand.
OF_CAUSAL = ("ahead", "behind", "columns", "written")
# Reductions that only passes over whole rows find, and for which nothing may be left out.
WHOLE = ("sum", "ahead", "by lag")


def reduced(
    source: Measured, *wanted: RowReduction, measure: str
) -> tuple[Shaped[Tensor, "*numbers"], ...]:
    """Reductions of every row: from the results of a pass, or from an exact pass made now."""
    if isinstance(source, Reduced | Requested):
        return from_pass(source, wanted, measure)
    found = one_pass(source, wanted).found
    return tuple(found[each] for each in wanted)


def one_pass(
    source: MapOrSystem,
    wanted: Sequence[RowReduction],
    *,
    error: float = 0.0,
    progress: Progress | None = None,
) -> Reduced:
    source = widened(source)
    row_pass = _pass_for(source, wanted, error)
    for done in row_pass.blocks():
        if progress is not None and row_pass.rows is not None:
            progress(done, row_pass.rows)
    made = row_pass.reduced(error)
    if NORM in made.found and isinstance(row_pass, HeadPass) and row_pass.leaves_range:
        made.found[NORM] = torch.cat([NORM.look(rows) for rows in blocks(source)], dim=-1)
    for each in wanted:
        if each not in made.found:
            made.found[each] = _without_pass(cast("Operator", source), each)
    return made


def _pass_for(source: MapOrSystem, wanted: Sequence[RowReduction], error: float) -> RowPass:
    if not isinstance(source, Operator):
        return WholeRowPass(source, wanted)
    scores = scores_of(source)
    # of causal rows it is known which keys they reach
    of_entries = any(each.name in ("ahead", "by lag") for each in wanted)
    if scores is not None and (
        not of_entries or (scores.is_causal and scores.shape[-3] == scores.shape[-1])
    ):
        return ScorePass(scores, [each for each in wanted if each.name not in OF_CAUSAL])
    if any(each.name in WHOLE for each in wanted):
        return WholeRowPass(source, wanted)
    heads = heads_of(source)
    parts = stored_parts(source) if isinstance(source, System) else None
    if heads is None or parts is None or source.steps == 1:
        return WholeRowPass(source, wanted)
    work = source.batch.numel() * source.steps**2 * heads.read.shape[-1] // 2
    if bool((heads.decay < 0).any() or (heads.step < 0).any()) or not applies(*parts, work=work):
        return WholeRowPass(source, wanted)
    check_plan(
        "measures",
        statistics_bytes(cast("System", source), len(wanted)),
        source.device,
        cure="Measure some entries of the batch at a time, or ask for fewer measures at once.",
    )
    return HeadPass(heads, [each for each in wanted if each.name not in NO_PASS], error=error)


def _without_pass(system: Operator, each: RowReduction) -> Tensor:
    token = torch.arange(system.steps, device=system.device)
    if each.name in OF_CAUSAL:
        columns = getattr(system, "read_steps", system.steps)
        known = {
            "ahead": 0 * token,
            "behind": (token + 1).clamp(max=columns),
            "columns": 0 * token + columns,
            "written": token,
        }[each.name]
        known = known if each.name == "written" else known.to(system.dtype)
        return known.expand(*system.batch, system.steps)
    system = cast("System", system)
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
    map_or_system: MapOrSystem,
    *measures: Measure,
    error: float = 0.0,
    progress: Progress | None = None,
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


def reductions_of(measures: Sequence[Measure]) -> tuple[RowReduction, ...]:
    """The reductions of rows from which all of these measures follow."""
    asked = Requested()
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
