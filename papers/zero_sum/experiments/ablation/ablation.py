"""Zero-sum attention on associative recall, its orders switched on and off."""

from dataclasses import asdict, dataclass

import torch

from experiments.training.examples import Examples, accuracy, batches
from experiments.training.fit import Schedule, fit
from experiments.training.sweep import Result
from papers.dynamical_systems.experiments.recall import queries
from papers.dynamical_systems.experiments.recall.model import Recaller
from papers.zero_sum.experiments.ablation import variants

WIDTH, N, BATCH = 64, 16, 64
TRAINED, CHECKED, TESTED = (20_000, 0), (500, 1), (1000, 2)
"""Samples and seeds of three sets: to learn from, to stop by, and to report."""
SCHEDULE = Schedule(rate=3e-3, steps=1500, warm_up=50, check_every=50, enough=0.99)


@dataclass(frozen=True)
class Setting:
    """One run."""

    variant: str
    seed: int


def settings(seeds: tuple[int, ...]) -> dict[str, Setting]:
    """Every variant, one seed after the other."""
    return {
        f"{variant}, seed {seed}": Setting(variant, seed)
        for seed in seeds
        for variant in variants.ORDERS
    }


def run(setting: Setting, schedule: Schedule = SCHEDULE) -> Result:
    """Train one model; how it went on and what it then answers."""
    torch.manual_seed(setting.seed)
    model = Recaller(WIDTH, lambda: variants.layer(setting.variant, width=WIDTH, n=N))
    drawn = batches(_drawn(TRAINED), size=BATCH, seed=setting.seed)
    reports = list(fit(model, drawn, _drawn(CHECKED), schedule))
    return {
        **asdict(setting),
        "accuracy": accuracy(model, _drawn(TESTED)),
        "steps": [report.steps for report in reports],
        "checked": [report.accuracy for report in reports],
        "loss": [round(report.loss, 4) for report in reports],
        "processor_seconds": round(reports[-1].seconds, 1),
    }


def _drawn(of: tuple[int, int]) -> Examples:
    samples, seed = of
    return queries.draw(torch.Generator().manual_seed(seed), samples)
