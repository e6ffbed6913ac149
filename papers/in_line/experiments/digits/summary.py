"""The seeds of a variant as one entry."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.training.sweep import Result

Summary = dict[str, Any]


def summaries(runs: Iterable[Result]) -> dict[str, Summary]:
    """By variant: medians over the seeds, and every seed's accuracy. Stopped runs are counted."""
    by_variant: dict[str, list[Result]] = {}
    for run in runs:
        by_variant.setdefault(run["variant"], []).append(run)
    return {variant: _summary(found) for variant, found in by_variant.items()}


def _summary(runs: Sequence[Result]) -> Summary:
    trained = [run for run in runs if "stopped" not in run]
    summary: Summary = {
        "parameters": runs[0]["parameters"],
        "seeds": len(runs),
        "stopped": len(runs) - len(trained),
        "locality_untrained": _medians(run["locality_untrained"] for run in runs),
    }
    if not trained:
        return summary
    for kept in ("accuracy", "masked", "locality", "weight_spread", "processor_seconds"):
        summary[kept] = _medians(run[kept] for run in trained)
    if all("peaked" in run for run in trained):
        summary["peaked"] = [run["peaked"] for run in trained]
    summary["accuracies"] = [run["accuracy"] for run in trained]
    summary["confusions"] = {
        threshold: [_confusions(run["confusions"][threshold]) for run in trained]
        for threshold in ("absolute", "relative")
    }
    return summary


def _confusions(counts: Sequence[int]) -> dict[str, float]:
    return {
        "mean": sum(counts) / len(counts),
        "median": median(counts),
        "images_without": sum(count == 0 for count in counts) / len(counts),
    }


def _medians(values: Iterable[Any]) -> Any:
    """The median of numbers; of dictionaries and lists, entry by entry."""
    first, *rest = values
    every = [first, *rest]
    if isinstance(first, Mapping):
        return {key: _medians(each[key] for each in every) for key in first}
    if isinstance(first, list):
        return [_medians(entries) for entries in zip(*every, strict=True)]
    return median(every)
