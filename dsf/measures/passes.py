"""One pass over a map, by the way that suits its system."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate import MapOrSystem, respond
from dsf.evaluate.compiled import compiles, stored_parts
from dsf.evaluate.heads import Heads, heads_of
from dsf.evaluate.loops.rows import is_diagonal
from dsf.evaluate.memory_plan import check_plan, statistics_bytes
from dsf.kernels import applies
from dsf.measures.checkpointing import Keeper, walked
from dsf.measures.row_reductions import Asked, Progress, RowWalk, Tallied, Tally, Walk, from_pass
from dsf.measures.structured_reductions import FadingWalk, HeadWalk, ScoreWalk, scores_of
from dsf.system import System

Measured = MapOrSystem | Tallied | Asked

# What needs no fold: linear in the map, or no question to it at all.
BESIDE = ("on", "written")


def tallied(
    source: Measured, *wanted: Tally, measure: str
) -> tuple[Shaped[Tensor, "*batch rows"], ...]:
    """Numbers of every row: from a pass that was made, or from one made now, exact."""
    if isinstance(source, Tallied | Asked):
        return from_pass(source, wanted, measure)
    found = one_pass(source, wanted).found
    return tuple(found[each] for each in wanted)


def one_pass(
    source: MapOrSystem,
    wanted: Sequence[Tally],
    *,
    error: float = 0.0,
    progress: Progress | None = None,
    resume: str | Path | None = None,
) -> Tallied:
    """All of ``wanted`` in one pass over the map."""
    keeper = None if resume is None else Keeper(resume, source, wanted, error=error)
    walk = _walk(source, wanted, error)
    made = walked(walk, error=error, progress=progress, keeper=keeper)
    for each in wanted:
        if each not in made.found:
            made.found[each] = _beside(cast("Operator", source), each)
    return made


def _walk(source: MapOrSystem, wanted: Sequence[Tally], error: float) -> Walk:
    """The fastest way through the map."""
    if not isinstance(source, Operator):
        return RowWalk(source, wanted)
    scores = scores_of(source)
    if scores is not None:
        return ScoreWalk(scores, [each for each in wanted if each.name != "written"])
    heads = heads_of(source)
    if not isinstance(source, System) or heads is None or not _is_fast(source, heads):
        if error > 0 and isinstance(source, System) and _can_be_cut(source):
            return FadingWalk(source, wanted, error=error)
        return RowWalk(source, wanted)
    check_plan(
        "measures",
        statistics_bytes(source, len(wanted)),
        source.device,
        cure="Measure some entries of the batch at a time, or ask for fewer measures at once.",
    )
    return HeadWalk(heads, [each for each in wanted if each.name not in BESIDE], error=error)


def _can_be_cut(system: System) -> bool:
    return is_diagonal(system) and compiles(system, system.steps)


def _is_fast(system: System, heads: Heads) -> bool:
    parts = stored_parts(system)
    if parts is None or system.steps == 1:
        return False
    if bool((heads.decay < 0).any() or (heads.step < 0).any()):
        return False
    return applies(*parts, work=system.batch.numel() * system.steps**2 * system.state_size // 2)


def _beside(system: Operator, each: Tally) -> Tensor:
    token = torch.arange(system.steps, device=system.device)
    if each.name == "written":
        return token.expand(*system.batch, system.steps)
    system = cast("System", system)
    unit = (token == each.token).to(system.dtype).reshape(system.steps, 1, 1)
    signal = unit.expand(*system.batch, system.steps, 1, 1)
    return respond(replace(system, initial=None), signal).abs().flatten(-3)
