"""One pass over the rows of a map by the fastest algorithm for its system, for many reductions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.evaluate.compiled import stored_parts
from dsf.evaluate.heads import Heads, heads_of
from dsf.evaluate.memory_plan import check_plan, statistics_bytes
from dsf.measures.fold import MapOrSystem, widened
from dsf.measures.head_pass import HeadPass
from dsf.measures.row_reductions import (
    NORM,
    Progress,
    Reduced,
    Requested,
    RowPass,
    RowReduction,
    from_pass,
)
from dsf.measures.score_pass import ScorePass, scores_of
from dsf.measures.whole_rows import WholeRowPass
from dsf.systems.composite import Operator
from dsf.systems.kernels import applies
from dsf.systems.softmax_rows import ExponentialRows
from dsf.systems.system import System

Measured = MapOrSystem | Reduced | Requested

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
    """All of ``wanted`` in one pass over the map."""
    source = widened(source)
    row_pass = _pass_for(source, wanted, error)
    made = row_pass.completed(error, progress)
    if NORM in made.found and getattr(row_pass, "leaves_range", False):
        made.found[NORM] = WholeRowPass(source, [NORM]).completed(error).found[NORM]
    for each in wanted:
        if each not in made.found:
            made.found[each] = _without_pass(cast("Operator", source), each)
    return made


def _pass_for(source: MapOrSystem, wanted: Sequence[RowReduction], error: float) -> RowPass:
    """The fastest algorithm for the rows of this map."""
    if not isinstance(source, Operator):
        return WholeRowPass(source, wanted)
    scores = scores_of(source)
    if scores is not None and _is_enough(scores, wanted):
        return ScorePass(scores, [each for each in wanted if each.name not in OF_CAUSAL])
    if any(each.name in WHOLE for each in wanted):
        return WholeRowPass(source, wanted)
    heads = heads_of(source)
    if not isinstance(source, System) or heads is None or not _is_fast(source, heads):
        return WholeRowPass(source, wanted)
    check_plan(
        "measures",
        statistics_bytes(source, len(wanted)),
        source.device,
        cure="Measure some entries of the batch at a time, or ask for fewer measures at once.",
    )
    return HeadPass(heads, [each for each in wanted if each.name not in NO_PASS], error=error)


def _is_enough(scores: ExponentialRows, wanted: Sequence[RowReduction]) -> bool:
    """Whether all of ``wanted`` follow from scores: of causal rows it is known what they reach."""
    of_entries = {each.name for each in wanted} & {"ahead", "by lag"}
    steps, _, columns = scores.shape[-3:]
    return not of_entries or (scores.is_causal and steps == columns)


def _is_fast(system: System, heads: Heads) -> bool:
    parts = stored_parts(system)
    if parts is None or system.steps == 1:
        return False
    if bool((heads.decay < 0).any() or (heads.step < 0).any()):
        return False
    return applies(*parts, work=system.batch.numel() * system.steps**2 * system.state_size // 2)


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
