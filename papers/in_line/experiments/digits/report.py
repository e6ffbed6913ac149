"""Put what the runs found into the README, ``results.json`` and the figures.

    python -m papers.in_line.experiments.digits.report

``run`` calls it at its end; on its own it takes the runs that are there.
"""

import platform
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import sklearn
import torch

from dsf.measures import uniform_neighbourhood
from experiments.training.sweep import Result, gather, replace_file, write_json
from papers.in_line.experiments.digits import drawing, expansion, figure_one, tables
from papers.in_line.experiments.digits.digits import GRID
from papers.in_line.experiments.digits.settings import COMPARED, settings
from papers.in_line.experiments.digits.summary import Summary, summaries

HERE = Path(__file__).parent
RUNS = HERE / "runs"
SPEED = HERE / "speed.json"
CONVENTIONS = {"interior": False, "edge_aware": True}


def main() -> None:
    """Write everything again."""
    mpl.use("agg")
    runs = gather(settings(), RUNS)
    found = summaries(runs.values())
    (times,) = gather({"speed": None}, HERE).values()
    gaps = expansion.gaps()
    write_json(HERE / "results.json", results(found, times["rows"], gaps))
    write_readme(
        {
            "figure one": tables.largest_differences_table(),
            "accuracy": tables.accuracy_table(found),
            "confusions": tables.confusion_table(found),
            "peaked": tables.peaked_table(found),
            "locality": tables.locality_table(found),
            "masking": tables.masking_table(found),
            "speed": tables.speed_table(times["rows"]),
            "gap": tables.gap_table(gaps),
        }
    )
    write_text(
        HERE / "figure_one.md", f"# Figure 1, weight by weight\n\n{tables.figure_one_table()}\n"
    )
    draw(runs, found, times["rows"], gaps)


def results(found: dict[str, Summary], times: list[Any], gaps: list[Any]) -> dict[str, Any]:
    """All numbers of the tables."""
    return {
        "figure_one": {
            name: figure_one.largest_differences(panel) for name, panel in figure_one.PANELS.items()
        },
        "digits": found,
        "uniform": uniform(),
        "speed": times,
        "gap": gaps,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def uniform() -> dict[str, float]:
    """What uniform attention has on its 3 x 3 neighbourhood."""
    return {
        name: uniform_neighbourhood(grid=GRID, edge_aware=aware)
        for name, aware in CONVENTIONS.items()
    }


def draw(
    runs: dict[str, Result], found: dict[str, Summary], times: list[Any], gaps: list[Any]
) -> None:
    """All figures."""
    drawing.figure_one_again(HERE / "figure_one.png")
    drawing.time_and_gap(HERE / "time_and_gap.png", times, gaps)
    compared = [name + local for local in ("", "+local") for name in COMPARED]
    shown = {name: found[name] for name in compared if "accuracy" in found.get(name, {})}
    curves = {
        convention: {name: entry["locality"][convention] for name, entry in shown.items()}
        for convention in CONVENTIONS
    }
    drawing.locality_curves(HERE / "locality.png", curves, uniform())
    counts = {
        threshold: {name: _pooled(runs, name, threshold) for name in COMPARED if name in shown}
        for threshold in ("absolute", "relative")
    }
    drawing.confusion_histograms(HERE / "confusions.png", counts)
    masked = {name: _by_choice(entry) for name, entry in shown.items()}
    drawing.accuracies_when_masked(HERE / "masking.png", masked)


def _pooled(runs: dict[str, Result], variant: str, threshold: str) -> list[int]:
    """Images of all seeds together."""
    return [
        count
        for run in runs.values()
        if run["variant"] == variant and "confusions" in run
        for count in run["confusions"][threshold]
    ]


def _by_choice(entry: Summary) -> dict[str, dict[str, float]]:
    nothing = {"0": entry["accuracy"]}
    return {
        choice: nothing | {width: pair[choice] for width, pair in entry["masked"].items()}
        for choice in ("local", "random")
    }


def write_readme(found: dict[str, str]) -> None:
    """Replace the tables between their marks.

    Raises:
        ValueError: if the README has no place for one of them.
    """
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, table in found.items():
        text, places = re.subn(
            rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if places != 1:
            raise ValueError(f"README.md has {places} places for the table '{name}', not one.")
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Put ``text`` into ``path``, whole or not at all."""
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
