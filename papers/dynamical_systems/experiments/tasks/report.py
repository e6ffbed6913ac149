"""Put what the runs found into ``results.json``, the figure and the table of the README."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from experiments.page import put_into, table
from experiments.training.sweep import Result, gather, write_json
from papers.dynamical_systems.experiments.tasks.generators import TASKS

FOLDER = Path(__file__).parent
RUNS = FOLDER / "runs"

Found = Mapping[str, Mapping[str, list[float]]]
"""By mixer and task: the accuracy of every seed, 0 to 1."""


def write(settings: Mapping[str, object]) -> None:
    """Write everything again."""
    results = gather(settings, RUNS)
    write_json(FOLDER / "results.json", results)
    accuracies = found(results)
    put_into(FOLDER / "README.md", as_table(accuracies))
    _draw(accuracies)


def found(results: Mapping[str, Result]) -> Found:
    """The seeds of each mixer and task together."""
    accuracies: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results.values():
        accuracies[result["mixer"]][result["task"]].append(result["accuracy"])
    return accuracies


def as_table(accuracies: Found) -> str:
    """A row for every mixer: the answers that are right, per cent, seeds in order."""
    rows = [
        [mixer, *(", ".join(f"{100 * each:.1f}" for each in of[task]) for task in TASKS)]
        for mixer, of in accuracies.items()
    ]
    return table(["mixer", *TASKS], rows)


def _draw(accuracies: Found) -> None:
    """Mixers down, tasks across: the mean of the seeds, per cent."""
    shown = [[100 * mean(of[task]) for task in TASKS] for of in accuracies.values()]
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shown, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(TASKS)), list(TASKS), rotation=15)
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    for row, values in enumerate(shown):
        for column, value in enumerate(values):
            colour = "black" if value > 60 else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
    figure.colorbar(image, label="answers that are right, per cent")
    figure.savefig(FOLDER / "accuracies.png", dpi=130, metadata={"Software": None})
