"""Selective layers with fewer states: a working model, and what it costs.

    python -m experiments.smaller_states.run [MODEL ...]

Each layer of the embedded Mamba and of typeseg's tagger keeps some of its states. Their parameters
go into a model of the same class with fewer states. Four ways to choose are compared: the choice
and projection that the data make best, the best choice alone, the states with the largest
contributions, and states at random.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from torch import Tensor, nn

from experiments.page import put_into, table
from experiments.smaller_states.choosing import (
    Smaller,
    best,
    drawn,
    only,
    projected,
    smaller_weights,
    strongest,
)
from experiments.smaller_states.layers import Products, products
from experiments.smaller_states.models import RecallModel, Subject, TagModel
from experiments.training.sweep import write_json

FOLDER = Path(__file__).parent
SUBJECTS = {"mamba": RecallModel, "typeseg": TagModel}
SEEDS = 5
Choose = Callable[[int, Products], Smaller]


def by_random(order: int, found: Products, *, seed: int, with_projection: bool) -> Smaller:
    kept = drawn(order, found, seed)
    return projected(kept, found) if with_projection else only(kept, found)


WAYS: Mapping[str, list[Choose]] = {
    "chosen and projected": [best],
    "chosen": [lambda order, found: only(best(order, found).kept, found)],
    "largest, projected": [lambda order, found: projected(strongest(order, found), found)],
    "largest": [lambda order, found: only(strongest(order, found), found)],
    "random, projected": [
        partial(by_random, seed=seed, with_projection=True) for seed in range(SEEDS)
    ],
    "random": [partial(by_random, seed=seed, with_projection=False) for seed in range(SEEDS)],
}


def smaller_model(
    subject: Subject, found: Mapping[str, Products], order: int, choose: Choose
) -> tuple[nn.Module, list[float]]:
    """A model of the same class with ``order`` states, and the predicted error of every layer."""
    weights: dict[str, Tensor] = dict(subject.model.state_dict())
    errors = []
    for path, layer in subject.layers(subject.model).items():
        chosen = choose(order, found[path])
        errors.append(chosen.error)
        parts = smaller_weights(layer, subject.roles, chosen)
        weights |= {f"{path}.{name}": part for name, part in parts.items()}
    return subject.build(weights, order), errors


def measured(subject: Subject) -> dict[str, Any]:
    """All orders and all ways, with the score of the model itself."""
    found = {
        path: products(subject.model, layer, subject.roles, subject.data)
        for path, layer in subject.layers(subject.model).items()
    }
    results: dict[str, Any] = {"itself": subject.score(subject.model), "smaller": []}
    for order in subject.orders:
        for way, several in WAYS.items():
            runs = []
            for choose in several:
                model, errors = smaller_model(subject, found, order, choose)
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
