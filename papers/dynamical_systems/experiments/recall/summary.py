"""What the seeds of a setting have in common, and how the mixers compare by it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from experiments.training.sweep import Result
from papers.dynamical_systems.experiments.recall import settings

VISIBLE = 0.01
"""Medians that are nearer than this count as equal: a query in a hundred."""

Sizes = Sequence[tuple[int, int]]
STATES: Sizes = [(n, settings.WIDTH) for n in settings.STATES]
WIDTHS: Sizes = [(settings.N, width) for width in settings.WIDTHS]
SIZES: Sizes = sorted({*STATES, *WIDTHS}, key=lambda size: (size[1], size[0]))


@dataclass(frozen=True)
class Seeds:
    """The runs of one mixer at one size."""

    accuracies: tuple[float, ...]
    steps: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Accuracy of the run in the middle."""
        return median(self.accuracies)

    @property
    def worst(self) -> float:
        """Accuracy of the run that did worst."""
        return min(self.accuracies)

    @property
    def best(self) -> float:
        """Accuracy of the run that did best."""
        return max(self.accuracies)


Summary = Mapping[tuple[str, int, int], Seeds]


def summary(results: Mapping[str, Result]) -> Summary:
    """The seeds of every mixer, n and width, at the mixer's own rate."""
    chosen = settings.of_sweep()
    runs: dict[tuple[str, int, int], list[Result]] = defaultdict(list)
    for name, result in results.items():
        if name in chosen:
            runs[result["mixer"], result["n"], result["width"]].append(result)
    return {
        place: Seeds(
            *(tuple(each[key] for each in some) for key in ("accuracy", "steps", "seconds"))
        )
        for place, some in runs.items()
    }


def ahead(seen: Summary, better: str, worse: str) -> str:
    """Where ``better`` is ahead of ``worse``, and where it is not, by medians."""
    both = [size for size in SIZES if (better, *size) in seen and (worse, *size) in seen]
    lead = {size: seen[(better, *size)].median - seen[(worse, *size)].median for size in both}
    for_it = [size for size in both if lead[size] > VISIBLE]
    against = [size for size in both if lead[size] < -VISIBLE]
    if not for_it and not against:
        return f"no difference at any of {len(both)} sizes"
    word = "agrees" if not against else "disagrees" if not for_it else "mixed"
    equal = len(both) - len(for_it) - len(against)
    return (
        f"{word}: ahead at {len(for_it)}, behind at {len(against)}, equal at {equal} of "
        f"{len(both)} sizes; {_extreme(lead)}"
    )


def _extreme(lead: Mapping[tuple[int, int], float]) -> str:
    (n, width), most = max(lead.items(), key=lambda item: abs(item[1]))
    return f"most at n = {n}, width {width}: {100 * most:+.1f} points"
