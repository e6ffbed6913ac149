"""What asking the run costs: an inspection with its checks and without, in plain forward passes.

    python -m benchmarks.check_costs [--threads N] [--tokens N] [SHAPE ...]

Random weights in the shapes of published checkpoints. Every number is processor time in all threads
over that of the plain forward pass, the least of some runs that take turns. Writes the table of
``docs/how_to/own_model.md``. Run it on a machine that does nothing else.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch

import dsf
from benchmarks.real_shapes import model_of, seconds
from dsf.runtime.threads import limited_to
from experiments.page import put_into, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how_to" / "own_model.md"
SHAPES = ("SmolLM2 135M", "Mamba 130M")
TURNS = 3


def measured(shape: str, tokens: int) -> dict[str, Any]:
    """Forward pass in seconds; the inspection without and with its checks in forward passes."""
    model = model_of(shape)
    ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(0))
    ways = {
        "forward": partial(_forward, model, ids),
        "none": partial(dsf.inspect, model, input_ids=ids, checks="none"),
        "all": partial(dsf.inspect, model, input_ids=ids),
    }
    for work in ways.values():  # compiles loops, fills caches
        work()
    least: dict[str, float] = {}
    for _ in range(TURNS):
        for name, work in ways.items():
            least[name] = min(least.get(name, torch.inf), seconds(work)[0])
    passes = {name: round(least[name] / least["forward"], 2) for name in ("none", "all")}
    checks = round((least["all"] - least["none"]) / least["forward"], 2) + 0.0  # no minus zero
    forward = round(least["forward"], 3)
    return {"shape": shape, "tokens": tokens, "forward": forward, **passes, "checks": checks}


def _forward(model: torch.nn.Module, ids: torch.Tensor) -> None:
    with torch.no_grad():
        model(input_ids=ids)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the checks of an inspection cost.")
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="SHAPE")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    with limited_to(options.threads):
        rows = [measured(shape, options.tokens) for shape in options.shapes]
    heads = ("shape", "tokens", "inspection without checks", "with checks", "further passes")
    columns = ("shape", "tokens", "none", "all", "checks")
    put_into(PAGE, table(heads, ([str(row[name]) for name in columns] for row in rows)))
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
