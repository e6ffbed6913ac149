"""Runs one unit: the model on its prompts, with every layer measured and stored."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection import InspectedLayer, Unsupported, inspect, inspect_piecewise, memory_forecast
from dsf.inspection.entry import check_memory
from dsf.inspection.model_input import number_type
from dsf.inspection.results.measurements import BY_DEFAULT, QUANTITIES, values
from dsf.jobs.executors import Outcome
from dsf.jobs.storage import LayerFacts, Plan, Running, Unit, finish, is_kept
from dsf.loading import LoadedModel, LoadError, PiecewiseModel, load_model, open_piecewise
from dsf.runtime.threads import limited_to

OUT_OF_MEMORY = "out of memory"


def work(plan: Plan, folder: Path, unit: Unit, *, threads: int = 1) -> Outcome:
    """Run a unit unless it is finished; return the reason where it failed.

    Any exception becomes text, so that a prompt which cannot be measured does not stop the others.
    """
    if is_kept(folder, unit):
        return unit, None
    try:
        with limited_to(threads):
            _measure(plan, folder, unit)
    except Exception as error:
        kind = OUT_OF_MEMORY if is_out_of_memory(error) else type(error).__name__
        return unit, f"{kind}: {error}"
    return unit, None


def _measure(plan: Plan, folder: Path, unit: Unit) -> None:
    ids = torch.tensor([plan.prompts[number] for number in unit.prompts])
    measured: list[tuple[LayerFacts, dict[str, Tensor]]] = []
    unsupported: list[Unsupported] = []
    notes: tuple[str, ...] = ()

    def keep(layers: Sequence[InspectedLayer], missed: Sequence[Unsupported]) -> None:
        measured.extend(_measured(layer, plan) for layer in layers)
        unsupported.extend(missed)

    how: dict[str, Any] = {"tolerance": plan.tolerance, "layers": plan.layers, "heads": plan.heads}
    how |= {"strict": True, "input_ids": ids.to(plan.how.device)}
    if plan.layerwise:
        inspect_piecewise(_opened(plan.model), keep, **how)
    else:
        loaded = _loaded(plan.model, plan.how)
        notes, found = loaded.notes, inspect(loaded.model, **how)
        keep(tuple(found), found.unsupported)
    finish(folder, unit, measured, unsupported, notes)


def _measured(layer: InspectedLayer, plan: Plan) -> tuple[LayerFacts, dict[str, Tensor]]:
    quantities = {
        name: (BY_DEFAULT if name in plan.left_out else QUANTITIES)[name]
        for name in plan.quantities
    }
    found, unmeasured = values(layer.system, quantities)
    return LayerFacts.of(layer, unmeasured), found


@lru_cache(maxsize=1)
def _loaded(model: str, how: Running) -> LoadedModel:
    """The model, loaded once in every worker."""
    loaded = load_model(
        model, revision=how.revision, dtype=number_type(how.dtype, "measure_prompts")
    )
    loaded.model.to(how.device)
    return loaded


@lru_cache(maxsize=1)
def _opened(model: str) -> PiecewiseModel:
    return open_piecewise(model)


def check_first(plan: Plan, units: Sequence[Unit], *, loads: bool) -> None:
    """Refuse a job whose largest unit does not fit into the memory, before any unit runs.

    Unless this process ``loads`` the model to run units itself, its sizes are read without weights.
    """
    if not units:
        return
    samples, steps = max(
        ((len(unit.prompts), len(plan.prompts[unit.prompts[0]])) for unit in units),
        key=lambda size: size[0] * size[1],
    )
    ids = torch.zeros(samples, steps, dtype=torch.long)
    if plan.layerwise:
        check_memory(_opened(plan.model), {"input_ids": ids}, memory=None, keeps=False)
        return
    try:
        model = _loaded(plan.model, plan.how).model if loads else _opened(plan.model).model
    except LoadError:
        if loads:
            raise
        return  # such as quantised weights: the units themselves tell it
    expected = memory_forecast(model, input_ids=ids)
    if expected is not None:
        expected.check(f"{plan.model}, {samples} prompts of {steps} tokens at a time")
