"""The table of families and releases as a page, from the numbers of all releases."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.releases.cases import FAMILIES

Run = dict[str, Any]
Report = dict[str, Any]

HEAD = """# Families and releases of transformers

This page says which releases of transformers were tried with which families, and how exactly each
was read. It is written by `make releases`, which makes an environment for every release and
inspects the smallest model of every family in it. Nothing in it is typed by hand, and every single
number is in `releases.json`, next to this page.

The two numbers of a cell are the largest difference between a rebuilt layer and the layer's own
output, over the largest number of that output: first for a float32 model, then for one that is
float64 throughout. The limits are 3e-6 and 1e-13; for minimax, which keeps its decays in float32,
1e-7. Parameters are drawn so that the layers mix: the *share* is the part of a map's Frobenius norm
that is off its diagonal, in the layer that mixes least, and has to be above 0.1. A dash means that
the release does not have the family.

These are models in memory; to read a folder of weights dsf needs transformers 5.3 or later.
"""
DEFECTS = """## Where a release is at fault

A cell in bold was refused with an error, or its error is above the limit. The cause is shown here
with the library alone (`benchmarks/releases/defects.py`), by two computations that should give the
same.

- *raises*: the model itself does not run.
- *chunks*: the output computed in chunks of 8 tokens and in one chunk, which should differ only by
  the order of a sum.
- *padding*: the output at the tokens of a sample with padding and without it.
- *rounding*: the layer in float32 and the same layer in float64, on the same input.

The last column is the largest difference between the two, over the largest output. The third column
is how far the layer is from its equations. That the equations are right is shown by the other
tables: the same families in one chunk, with padding in a batch of two, and on later releases are
rebuilt.
"""


def page(reports: list[Report]) -> str:
    """The whole page as Markdown, releases from left to right as given."""
    seen = {run["family"] for report in reports for run in report["runs"]}
    names = [name for name in FAMILIES if name in seen]
    parts = [HEAD, summary(reports)]
    for title, chosen in (
        ("Without padding, 21 and 150 tokens", lambda run: run["padding"] == "none"),
        (
            "Padding on the left and on the right, two samples, 21 and 150 tokens",
            lambda run: run["padding"] != "none" and run["samples"] > 1,
        ),
        ("A single sample with padding on the left, 21 tokens", lambda run: run["samples"] == 1),
    ):
        parts += [f"## {title}\n", _table(reports, names, chosen)]
    parts += [DEFECTS, _faults(reports)]
    return "\n".join(parts)


def summary(reports: list[Report]) -> str:
    """How many runs came out how."""
    runs = [run for report in reports for run in report["runs"]]
    rebuilt = sum(run["outcome"] == "rebuilt" for run in runs)
    theirs = sum(run.get("defect") is not None for run in runs)
    torch = ", ".join(sorted({report["torch"] for report in reports}))
    return (
        f"Of {len(runs)} inspections {rebuilt} are within the limits, {theirs} are not and the "
        f"fault is the library's, {len(runs) - rebuilt - theirs} are unexplained. "
        f"The newest release was {reports[-1]['transformers']}; torch {torch}, on a CPU.\n"
    )


def unexplained(reports: list[Report]) -> list[Run]:
    """Runs that are neither within the limits nor the library's fault."""
    runs = (run for report in reports for run in report["runs"])
    return [run for run in runs if run["outcome"] != "rebuilt" and run.get("defect") is None]


def _table(reports: list[Report], names: list[str], chosen: Callable[[Run], bool]) -> str:
    releases = [report["transformers"] for report in reports]
    lines = [_row("family", *releases, "share"), _row("---", *["---"] * len(releases), "---:")]
    for name in names:
        of_release = [
            [run for run in report["runs"] if run["family"] == name and chosen(run)]
            for report in reports
        ]
        shares = [run["share"] for runs in of_release for run in runs if "share" in run]
        share = f"{min(shares):.2f}" if shares else ""
        lines.append(_row(name, *map(_cell, of_release), share))
    return "\n".join([*lines, ""])


def _cell(runs: list[Run]) -> str:
    if not runs:
        return "–"
    wrong = [run for run in runs if run["outcome"] != "rebuilt"]
    kinds = ", ".join(sorted({run.get("defect") or "unexplained" for run in wrong}))
    if any(run["outcome"] == "refused" for run in wrong):
        return f"**refused: {kinds}**"
    worst = " / ".join(_short(max(run[kind] for run in runs)) for kind in ("single", "double"))
    return f"**{kinds}: {worst}**" if wrong else worst


def _short(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def _faults(reports: list[Report]) -> str:
    lines = [
        _row("family", "release", "rebuilt layer", "defect", "the library alone"),
        _row("---", "---", "---:", "---", "---"),
    ]
    for report in reports:
        for (name, defect), runs in _by_defect(report["runs"]).items():
            errors = [run["error"] for run in runs if run["error"] is not None]
            error = f"{max(errors):.2g}" if errors else "does not run"
            shown = max(run["shown"] for run in runs)
            shown = shown if isinstance(shown, str) else f"outputs differ by {shown:.2g}"
            lines.append(_row(name, report["transformers"], error, defect, shown))
    return "\n".join([*lines, ""])


def _by_defect(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.get("defect") is not None:
            found.setdefault((run["family"], run["defect"]), []).append(run)
    return found


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
