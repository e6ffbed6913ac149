"""Train every mixer on every task, then write the results, the table and the figure.

    python -m papers.dynamical_systems.experiments.tasks.run [--workers 2]

Run from the repository. Finished runs are kept in ``runs`` next to this file; what is there is not
done again, so an interrupted sweep goes on where it stopped. Remove the folder to start anew.
"""

import argparse
from dataclasses import asdict, dataclass
from functools import cache, partial

import torch

from dsf import layers
from experiments.training.examples import Examples, accuracy, batches
from experiments.training.fit import Schedule, fit
from experiments.training.sweep import Result, sweep
from papers.dynamical_systems.experiments.recall import mixers
from papers.dynamical_systems.experiments.recall.model import Recaller
from papers.dynamical_systems.experiments.recall.settings import BEST_RATE, RATES
from papers.dynamical_systems.experiments.tasks import report
from papers.dynamical_systems.experiments.tasks.generators import LENGTH, TASKS, VOCABULARY

MIXERS = (
    "softmax",
    "linear",
    "normalised exp",
    "in-line",
    "zeros",
    "metala",
    "delta net",
)
SEEDS = (0,)
N, WIDTH = 16, 64
STEPS, BATCH, ENOUGH = 500, 32, 0.995
TRAINING, CHECKED, TEST = (10_000, 0), (500, 1), (1000, 2)
"""Samples and seed of three sets: to learn from, to stop by, and to report."""


@dataclass(frozen=True)
class Setting:
    """One run."""

    task: str
    mixer: str
    seed: int


def settings() -> dict[str, Setting]:
    """Every run by the name of its file; a whole seed before the next."""
    chosen = [Setting(task, mixer, seed) for seed in SEEDS for task in TASKS for mixer in MIXERS]
    return {f"{one.task}-{one.mixer}-{one.seed}".replace(" ", "_"): one for one in chosen}


def main() -> None:
    """Do what is missing, then show all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one core each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweep(run, settings(), report.RUNS, workers=arguments.workers)
    report.write(settings())


def run(setting: Setting, *, steps: int = STEPS) -> Result:
    """Train one model, and say which share of the test answers are right."""
    torch.manual_seed(setting.seed)
    model = Recaller(WIDTH, partial(_layer, setting.mixer), vocabulary=VOCABULARY, length=LENGTH)
    drawn = batches(_drawn(setting.task, *TRAINING), size=BATCH, seed=setting.seed)
    rate = BEST_RATE.get(setting.mixer, RATES[0])
    schedule = Schedule(rate=rate, steps=steps, enough=ENOUGH)
    *_, last = fit(model, drawn, _drawn(setting.task, *CHECKED), schedule)
    return asdict(setting) | {
        "accuracy": round(accuracy(model, _drawn(setting.task, *TEST)), 5),
        "steps": last.steps,
        "seconds": round(last.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


@cache
def _drawn(task: str, samples: int, seed: int) -> Examples:
    return TASKS[task](torch.Generator().manual_seed(seed), samples)


def _layer(name: str) -> layers.Layer:
    if name == "in-line":
        return layers.InLineAttention(WIDTH, key_size=N)
    return mixers.layer(name, width=WIDTH, n=N)


if __name__ == "__main__":
    main()
