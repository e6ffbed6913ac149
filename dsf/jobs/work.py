"""Runs one unit: the model on its prompts, with every layer measured and stored."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dsf.inspection import InspectedLayer, Unsupported, inspect, inspect_piecewise
from dsf.inspection.results.measurements import QUANTITIES, values
from dsf.jobs.executors import Outcome
from dsf.jobs.plan import Plan, Unit
from dsf.jobs.storage import LayerFacts, finish, is_finished, write_layer
from dsf.loading import LoadedModel, PiecewiseModel, load_model, open_piecewise
from dsf.threads import limited_to


def work(plan: Plan, folder: Path, unit: Unit, *, threads: int = 1) -> Outcome:
    """Run a unit unless it is finished; return the reason where it failed.

    Any exception becomes text, so that a prompt which cannot be measured does not stop the others.
    """
    if is_finished(folder, unit):
        return unit, None
    try:
        with limited_to(threads):
            _measure(plan, folder, unit)
    except Exception as error:
        return unit, f"{type(error).__name__}: {error}"
    return unit, None


def _measure(plan: Plan, folder: Path, unit: Unit) -> None:
    ids = torch.tensor([plan.prompts[number] for number in unit.prompts])
    number = 0
    unsupported: list[Unsupported] = []

    def keep(layers: Sequence[InspectedLayer], missed: Sequence[Unsupported]) -> None:
        nonlocal number
        for layer in layers:
            write_layer(folder, unit, number, *_measured(layer, plan.quantities))
            number += 1
        unsupported.extend(missed)

    if plan.layerwise:
        inspect_piecewise(
            _opened(plan.model),
            keep,
            tolerance=plan.tolerance,
            strict=True,
            layers=plan.layers,
            heads=plan.heads,
            input_ids=ids,
        )
    else:
        found = inspect(
            _loaded(plan.model).model,
            tolerance=plan.tolerance,
            strict=True,
            layers=plan.layers,
            heads=plan.heads,
            input_ids=ids,
        )
        keep(tuple(found), found.unsupported)
    finish(folder, unit, number, tuple(unsupported))


def _measured(
    layer: InspectedLayer, quantities: Sequence[str]
) -> tuple[LayerFacts, dict[str, Tensor]]:
    found, unmeasured = values(layer, {name: QUANTITIES[name] for name in quantities})
    return LayerFacts.of(layer, unmeasured), found


@lru_cache(maxsize=1)
def _loaded(model: str) -> LoadedModel:
    """The model, loaded once in every worker."""
    return load_model(model)


@lru_cache(maxsize=1)
def _opened(model: str) -> PiecewiseModel:
    return open_piecewise(model)
