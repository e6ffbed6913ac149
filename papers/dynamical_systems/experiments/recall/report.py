"""Put what the runs found into ``results.json``, the figures and the tables of the README.

    python -m papers.dynamical_systems.experiments.recall.report

``run`` calls it at its end; on its own it takes the runs that are there.
"""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import torch

from experiments.page import put_into, table
from experiments.training.sweep import Result, gather, write_json
from papers.dynamical_systems.experiments.recall import figures, mixers, settings
from papers.dynamical_systems.experiments.recall.summary import (
    SIZES,
    STATES,
    WIDTHS,
    Sizes,
    Summary,
    ahead,
    summary,
)

FOLDER = Path(__file__).parent
RUNS = FOLDER / "runs"

ORDERS = (
    ("softmax is best", "", "softmax", tuple(name for name in mixers.NAMES if name != "softmax")),
    ("SSD is close to softmax", "", "ssd", ("softmax",)),
    ("SSD is ahead of S6", "DSF, App. L", "ssd", ("s6",)),
    ("normalised attention is ahead of linear", "", "normalised exp", ("linear",)),
    ("and behind softmax", "", "softmax", ("normalised exp",)),
    (
        "exp is the best normaliser",
        "DSF, App. H",
        "normalised exp",
        ("normalised softplus", "normalised sigmoid"),
    ),
    ("MetaLA is behind attention", "MetaLA, Sec. 6", "softmax", ("metala",)),
    ("MetaLA is ahead of Mamba (here its core, S6)", "MetaLA, Sec. 6", "metala", ("s6",)),
    ("MetaLA is ahead of GLA", "MetaLA, Sec. 6", "metala", ("gla",)),
    (
        "a key of its own does not help MetaLA",
        "MetaLA, Sec. 6, of language models",
        "metala",
        ("metala with key",),
    ),
    ("the decay has to follow the input", "", "metala", ("metala fixed decay",)),
    ("self-augmentation helps", "MetaLA, Sec. 6, of language models", "metala", ("metala plain",)),
    (
        "the reversed transition is ahead of the original one",
        "DSF, Sec. 4.3",
        "quasi-lstm reversed",
        ("quasi-lstm",),
    ),
)
"""Orders of mixers: the words, the paper that states it, if one does, who is ahead, and of whom."""


def main() -> None:
    """Write everything again."""
    results = gather(settings.of_sweep() | settings.of_rates(), RUNS)
    seen = summary(results)
    write_json(FOLDER / "results.json", results)
    figures.draw(seen, FOLDER)
    put_into(FOLDER / "README.md", "\n\n".join(tables(results, seen)))


def tables(results: dict[str, Result], seen: Summary) -> Iterator[str]:
    """The four tables and what the runs took."""
    yield "Against the state, at width 64:"
    yield matrix(seen, STATES)
    yield "Against the width, at n = 16:"
    yield matrix(seen, WIDTHS)
    yield "Orders of mixers, the papers that state them, and the medians here:"
    yield table(["order", "stated by", "compared", "here"], _orders(seen))
    yield "Every setting, the steps of each seed included:"
    yield table(
        ["mixer", "n", "width", "median", "mean", "best", "worst", "steps", "seconds"],
        _listing(seen),
    )
    yield "Two learning rates, seed 0, n = 16, width 64: accuracy after so many steps."
    yield table(["mixer", *(f"{rate:g}" for rate in settings.RATES)], _rates(results))
    minutes = sum(result["seconds"] for result in results.values()) / 60
    yield (
        f"{len(results)} runs, {minutes:.0f} minutes of one core; Python "
        f"{platform.python_version()}, torch {torch.__version__}."
    )


def matrix(seen: Summary, sizes: Sizes) -> str:
    """A row for every mixer, a column for every size: median (worst–best), per cent."""
    rows = []
    for mixer in mixers.NAMES:
        places = [(mixer, *size) for size in sizes]
        rows.append([mixer, *(_cell(seen, place) for place in places)])
    return table(["mixer", *(f"n = {n}, width {width}" for n, width in sizes)], rows)


def _cell(seen: Summary, place: tuple[str, int, int]) -> str:
    if place not in seen:
        return ""
    seeds = seen[place]
    return f"{_percent(seeds.median)} ({_percent(seeds.worst)}–{_percent(seeds.best)})"


def _orders(seen: Summary) -> Iterator[Sequence[str]]:
    for words, source, better, others in ORDERS:
        for worse in others:
            yield words, source, f"{better} over {worse}", ahead(seen, better, worse)


def _listing(seen: Summary) -> Iterator[Sequence[str]]:
    for mixer in mixers.NAMES:
        for n, width in SIZES:
            if (seeds := seen.get((mixer, n, width))) is None:
                continue
            shares = (seeds.median, mean(seeds.accuracies), seeds.best, seeds.worst)
            took = (seeds.steps, [round(each) for each in seeds.seconds])
            yield (
                mixer,
                str(n),
                str(width),
                *map(_percent, shares),
                *(", ".join(map(str, each)) for each in took),
            )


def _rates(results: dict[str, Result]) -> Iterator[Sequence[str]]:
    chosen = settings.of_rates()
    for mixer in mixers.NAMES:
        names = {each.rate: name for name, each in chosen.items() if each.mixer == mixer}
        there = [results.get(names[rate]) for rate in settings.RATES]
        yield (
            mixer,
            *(f"{_percent(one['accuracy'])}, {one['steps']}" if one else "" for one in there),
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
