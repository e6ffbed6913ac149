"""Train every mixer on multi-query recall, then write the results, the table and the figures.

    python -m papers.dynamical_systems.experiments.recall.run [--workers 2]

Run from the repository. Finished runs are kept in ``runs`` next to this file; what is there is not
done again, so an interrupted sweep goes on where it stopped. Remove the folder to start anew.
"""

import argparse
from dataclasses import asdict

import torch

from experiments.training.examples import Examples, accuracy, batches
from experiments.training.fit import Schedule, fit
from experiments.training.sweep import Result, sweep
from papers.dynamical_systems.experiments.recall import mixers, queries, report, settings
from papers.dynamical_systems.experiments.recall.model import Recaller
from papers.dynamical_systems.experiments.recall.settings import Setting

STEPS, BATCH, ENOUGH = 1500, 32, 0.995
TRAINING, CHECKED, TEST = (20_000, 0), (500, 1), (1000, 2)
"""Samples and seed of three sets: to learn from, to stop by, and to report."""


def main() -> None:
    """Do what is missing, then show all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one core each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweep(run, settings.of_sweep() | settings.of_rates(), report.RUNS, workers=arguments.workers)
    report.main()


def run(setting: Setting, *, steps: int = STEPS) -> Result:
    """Train one model, and say how many of the queries it then answers of those kept apart."""
    torch.manual_seed(setting.seed)
    model = Recaller(
        setting.width, lambda: mixers.layer(setting.mixer, width=setting.width, n=setting.n)
    )
    drawn = batches(_drawn(TRAINING), size=BATCH, seed=setting.seed)
    schedule = Schedule(rate=setting.rate, steps=steps, enough=ENOUGH)
    *_, last = fit(model, drawn, _drawn(CHECKED), schedule)
    return asdict(setting) | {
        "accuracy": round(accuracy(model, _drawn(TEST)), 5),
        "steps": last.steps,
        "seconds": round(last.seconds, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _drawn(of: tuple[int, int]) -> Examples:
    samples, seed = of
    return queries.draw(torch.Generator().manual_seed(seed), samples)


if __name__ == "__main__":
    main()
