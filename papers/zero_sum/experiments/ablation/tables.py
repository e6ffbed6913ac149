"""The tables of the page, written between its marks."""

import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.training.sweep import Result, replace_file
from papers.zero_sum.experiments.ablation import contrast

FLOORS = {
    "softmax": "convex",
    "linear": "convex",
    "zero-sum": "sum zero",
    "softmax + zero-sum": "sum one",
}
"""What the weights of a head are held to; the others have no floor that is known."""
SOLVED = 0.9


def fill(page: Path, results: Mapping[str, Any]) -> None:
    """Replace what is between ``<!-- name -->`` and ``<!-- end -->``.

    Raises:
        ValueError: if the page lacks one of the marks.
    """
    text = page.read_text(encoding="utf-8")
    for name, lines in written(results).items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(
                f"fill: {page.name} needs a line '<!-- {name} -->' and after it '<!-- end -->'."
            )
        text = before + mark + "\n" + "\n".join(lines) + "\n\n" + end + after
    replace_file(page, lambda draft: draft.write_text(text, encoding="utf-8"))


def written(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every table by its name, as lines of Markdown."""
    return {
        "contrast": list(_contrast(results["contrast"])),
        "ablation": list(_ablation(results["ablation"])),
        "dilution": list(_dilution(results["curves"])),
        "orders": list(_orders(results["curves"]["orders"])),
        "growth": list(_growth(results["curves"]["growth"])),
    }


def _contrast(runs: list[Result]) -> Iterator[str]:
    yield from _header(
        "head", *(f"{target}: {part}" for target in contrast.TARGETS for part in PARTS)
    )
    for head in contrast.HEADS:
        cells = []
        for target in contrast.TARGETS:
            chosen = [run for run in runs if (run["head"], run["target"]) == (head, target)]
            errors = [run["error"] for run in chosen]
            known = chosen[0]["floors"][FLOORS[head]] if chosen and head in FLOORS else None
            cells += [_spread(errors, "{:.2g}"), "" if known is None else f"{known:.3f}"]
        yield _row(head, *cells)


PARTS = ("error", "floor")


def _ablation(runs: list[Result]) -> Iterator[str]:
    yield from _header("variant", "accuracy", f"steps to {SOLVED:.0%}", "processor seconds a run")
    for variant in dict.fromkeys(run["variant"] for run in runs):
        chosen = [run for run in runs if run["variant"] == variant]
        yield _row(
            variant,
            _spread([run["accuracy"] for run in chosen], "{:.3f}"),
            ", ".join(str(_reached(run)) for run in chosen),
            f"{statistics.mean(run['processor_seconds'] for run in chosen):.0f}",
        )


def _reached(run: Result) -> int | str:
    pairs = zip(run["steps"], run["checked"], strict=True)
    return next((step for step, accuracy in pairs if accuracy >= SOLVED), "never")


def _dilution(curves: Mapping[str, Any]) -> Iterator[str]:
    shares, largest = curves["dilution"], curves["largest_weight"]
    weights = dict(zip(largest["tokens"], largest["t_max_w"], strict=True))
    yield from _header("t", "uniform share of a softmax row", "t times the largest weight of ZeroS")
    for tokens, share in zip(shares["tokens"], shares["uniform_share"], strict=True):
        weight = f"{weights[tokens]:.2f}" if tokens in weights else ""
        yield _row(str(tokens), f"{share:.2f}", weight)
    yield _row("limit", f"{shares['limit']:.3f}", f"{largest['limit']:.2f}")


def _orders(orders: Mapping[str, Any]) -> Iterator[str]:
    yield from _header("scale of the logits", "left after the first order", "after the second")
    for numbers in zip(orders["scales"], orders["second"], orders["third"], strict=True):
        yield _row(f"{numbers[0]:g}", *(f"{number:.3g}" for number in numbers[1:]))
    yield _row("last slope", *(f"{slope:.3f}" for slope in orders["slopes"]))


def _growth(growth: Mapping[str, Any]) -> Iterator[str]:
    yield from _header("scale of the logits", *growth["norms"])
    for scale, *norms in zip(growth["scales"], *growth["norms"].values(), strict=True):
        yield _row(f"{scale:.3g}", *(f"{norm:.3g}" for norm in norms))


def _spread(numbers: Iterable[float], form: str) -> str:
    """The median, and the smallest and the largest behind it."""
    ordered = sorted(numbers)
    if not ordered:
        return ""
    low, middle, high = ordered[0], statistics.median(ordered), ordered[-1]
    return f"{form.format(middle)} ({form.format(low)} to {form.format(high)})"


def _header(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
