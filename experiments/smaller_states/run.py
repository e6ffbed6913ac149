"""Selective layers with fewer states: a working model, and what it costs.

    python -m experiments.smaller_states.run [MODEL ...]

Each layer of the embedded Mamba and of typeseg's tagger keeps some of its states. Their parameters
go into a model of the same class with fewer states. Four ways to choose are compared: the choice
and projection that the data make best, the best choice alone, the states with the largest
contributions, and states at random.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from dsf.interventions.fewer_states import (
    StateProducts,
    best_states,
    reduce_states,
    state_products,
    strongest_states,
)
from experiments.page import put_into, table
from experiments.smaller_states.models import RecallModel, Subject, TagModel
from experiments.training.sweep import write_json

FOLDER = Path(__file__).parent
SUBJECTS = {"mamba": RecallModel, "typeseg": TagModel}
SEEDS = 5
Choose = Callable[[StateProducts, int], Sequence[int]]


def drawn(found: StateProducts, order: int, *, seed: int) -> tuple[int, ...]:
    """States drawn at random."""
    rng = torch.Generator().manual_seed(seed)
    return tuple(sorted(torch.randperm(found.states, generator=rng)[:order].tolist()))


RANDOM: list[Choose] = [partial(drawn, seed=seed) for seed in range(SEEDS)]
WAYS: Mapping[str, tuple[list[Choose], bool]] = {
    "chosen and projected": ([best_states], True),
    "chosen": ([best_states], False),
    "largest, projected": ([strongest_states], True),
    "largest": ([strongest_states], False),
    "random, projected": (RANDOM, True),
    "random": (RANDOM, False),
}
"""How states are chosen, in one or several runs, and whether the kept ones read for the others."""


def smaller_model(
    subject: Subject,
    found: Mapping[str, StateProducts],
    order: int,
    choose: Choose,
    *,
    projected: bool,
) -> tuple[nn.Module, list[float]]:
    """A model of the same class with ``order`` states, and the predicted error of every layer."""
    smaller = reduce_states(
        subject.model,
        (),
        states=order,
        build=subject.build,
        choose=choose,
        projected=projected,
        products=found,
    )
    return smaller.model, [layer.error for layer in smaller.layers.values()]


def measured(subject: Subject) -> dict[str, Any]:
    """All orders and all ways, with the score of the model itself."""
    found = state_products(subject.model, subject.data, adapters=subject.adapters)
    results: dict[str, Any] = {"itself": subject.score(subject.model), "smaller": []}
    for order in subject.orders:
        for way, (several, projected) in WAYS.items():
            runs = []
            for choose in several:
                model, errors = smaller_model(subject, found, order, choose, projected=projected)
                runs.append({"error": max(errors), "errors": errors, **subject.score(model)})
            results["smaller"].append({"states": order, "way": way, "runs": runs})
            print(subject.name, order, way, runs[0], flush=True)
    return results


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """The table: the mean of the runs of a way."""
    shown = []
    for name, found in results.items():
        share = "right" if "right" in found["itself"] else "same"
        itself = found["itself"]
        shown.append([name, "all", "", "", f"{itself[share]:.1%}", f"{itself['loss']:.3f}"])
        for row in found["smaller"]:
            numbers = {
                key: mean(run[key] for run in row["runs"]) for key in ("error", share, "loss")
            }
            shown.append(
                [
                    name,
                    str(row["states"]),
                    row["way"],
                    f"{numbers['error']:.2f}",
                    f"{numbers[share]:.1%}",
                    f"{numbers['loss']:.3f}",
                ]
            )
    return shown


HEADS = ("model", "states", "way", "largest predicted error", "right or same", "loss (nat)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(SUBJECTS))
    asked = parser.parse_args().models or list(SUBJECTS)
    place = FOLDER / "results.json"
    results = json.loads(place.read_text("utf-8")) if place.exists() else {}
    for name in asked:
        results[name] = measured(SUBJECTS[name]())
        write_json(place, results)
    put_into(FOLDER / "README.md", table(HEADS, rows(results)))


if __name__ == "__main__":
    main()
