"""One pass over a map, by the way that suits its system."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import MapOrSystem, respond
from dsf.evaluate.by_loops import stored_parts
from dsf.evaluate.heads import Heads, heads_of
from dsf.evaluate.planning import check_plan, statistics_bytes
from dsf.kernels import applies
from dsf.measures.head_tallies import head_tallies
from dsf.measures.tallies import Asked, Tallied, Tally, from_pass, rowwise
from dsf.system import System

Progress = Callable[[int, int], None]
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
) -> Tallied:
    """All of ``wanted`` in one pass over the map."""
    heads = heads_of(source) if isinstance(source, System) else None
    if not isinstance(source, System) or heads is None or not _is_fast(source, heads):
        return Tallied(rowwise(source, wanted), error, 0.0, 1.0)
    check_plan(
        "measures",
        statistics_bytes(source, len(wanted)),
        source.device,
        cure="Measure some entries of the batch at a time, or ask for fewer measures at once.",
    )
    folded = [each for each in wanted if each.name not in BESIDE]
    made = head_tallies(heads, folded, error=error, progress=progress)
    for each in wanted:
        if each.name in BESIDE:
            made.found[each] = _beside(source, each)
    return made


def _is_fast(system: System, heads: Heads) -> bool:
    parts = stored_parts(system)
    if parts is None or bool((heads.decay < 0).any() or (heads.step < 0).any()):
        return False
    return applies(*parts, work=system.batch.numel() * system.steps**2 * system.state_size // 2)


def _beside(system: System, each: Tally) -> Tensor:
    token = torch.arange(system.steps, device=system.device)
    if each.name == "written":
        return token.expand(*system.batch, system.steps)
    unit = (token == each.token).to(system.dtype).reshape(system.steps, 1, 1)
    signal = unit.expand(*system.batch, system.steps, 1, 1)
    return respond(replace(system, initial=None), signal).abs().flatten(-3)
