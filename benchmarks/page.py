"""The page of a run: limits of the machine, cases in groups, pictures of ratios and of growth."""

from itertools import groupby
from math import log
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.record import Row

DOCS = Path(__file__).resolve().parent.parent / "docs"


class Group(NamedTuple):
    """Cases whose names begin alike.

    Attributes:
        beginnings: of the names of its cases, as few letters as tell them apart from others.
        heading: of its section.
        says: what is computed, of which size.
        alike: whether all methods do the same work, so that they belong into one picture.
    """

    beginnings: tuple[str, ...]
    heading: str
    says: str
    alike: bool = True


GROUPS = (
    Group(("Mamba,",), "Mamba", "Response of 1536 channels with 16 states each."),
    Group(("Mamba-2,",), "Mamba-2", "Response of 24 heads of 64 channels, 128 states."),
    Group(
        ("Gated delta rule,",),
        "Gated delta rule",
        "Response of 8 heads, keys and values of width 128.",
    ),
    Group(
        ("GLA,",),
        "Gated linear attention",
        "Response of 4 heads, keys of width 128, values of 256.",
    ),
    Group(
        ("Time-invariant,", "Impulse response,"),
        "Time-invariant",
        "S4D with 256 channels of 32 complex modes: the response, and the impulse response alone. "
        "Convolutions with a kernel that is given do not have to make it.",
    ),
    Group(
        ("Wide scan,",),
        "Scan of states that do not meet",
        "24,576 states, each with a decay of its own at every token. *dsf* writes into memory that "
        "is used again, the others hand out fresh memory. The limit is reading two numbers and "
        "writing one.",
    ),
    Group(
        ("S6 map",),
        "Maps of Mamba",
        "Channels x tokens; the map of every channel as a matrix, into memory that is used again "
        "unless it says fresh. By blocks: rows one after the other, where the whole map would not "
        "fit.",
    ),
    Group(("SSD map",), "Maps of Mamba-2", "Heads x tokens, 128 states."),
    Group(
        ("statistics",),
        "Statistics of maps",
        "Negative share, entropy, mean distance, mass near the diagonal and gain of every row in "
        "one pass, heads x tokens, without the map. At great lengths parts of the map that are "
        "proved to matter less than 1e-6 are left out; at 16,384 tokens the ratio is to the pass "
        "that leaves nothing out.",
    ),
    Group(
        ("Inspection of",),
        "Models as a whole",
        "The models inside the package: *dsf* runs a model, rebuilds every layer in double "
        "precision and compares it with what the layer put out. The other lines are the plain run "
        "of the model library, and what all maps, or all measures, take on top.",
        alike=False,
    ),
    Group(
        ("Maps of",),
        "TransformerLens",
        "The same models in an environment with TransformerLens: *dsf* inspects, checks and makes "
        "all maps, TransformerLens runs with its cache and makes them. Its error is its largest "
        "difference from ours below the diagonal; its maps of the gated delta rule are a heuristic "
        "by its own account.",
    ),
)

HEAD = """# Benchmarks

Written by `make bench`; nothing here is typed by hand. One process, one thread, methods in turns,
medians of processor seconds; what takes more than a second is timed once. *Ratio* is what a method
takes over what dsf takes, above one where dsf is faster; for *limit* it is the share of the
machine's limit that dsf reaches: exponentials, products or memory, measured in the same run.
*Error* is against double precision, or against the exact pass. Seconds differ from machine to
machine: compare ratios. `make bench BENCH=--gate` fails where those of a case fall, in the median,
more than a quarter below this page. Errors in single precision where decays are hard:
[accuracy](accuracy.md).

![What other methods take over what dsf takes](images/ratios.png)

"""
TABLE = "| case | method | seconds | ratio | error | |\n|---|---|---|---|---|---|\n"
GROWTH = """## Growth

Seconds of Mamba-2 as one size doubles, with the exponent between the two largest sizes.

![Seconds of responses, maps and statistics over their sizes](images/growth.png)
"""


def write(found: dict[str, Any]) -> None:
    """``docs/benchmarks.md`` and its pictures."""
    (DOCS / "benchmarks.md").write_text(text(found), encoding="utf-8")
    ratios(found["rows"]).savefig(DOCS / "images" / "ratios.png", **PICTURE)
    curves(found["growth"]).savefig(DOCS / "images" / "growth.png", **PICTURE)


PICTURE: dict[str, Any] = {"dpi": 110, "metadata": {"Software": None}}


def text(found: dict[str, Any]) -> str:
    """The page."""
    known = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    limits = "".join(f"| {name} | {value:.3g} |\n" for name, value in found["limits"].items())
    page = HEAD + f"Versions: {known}. The run took {found['minutes']:.1f} minutes.\n\n"
    page += f"| limit of one thread in this run | |\n|---|---|\n{limits}\n"
    for group, rows in groupby(found["rows"], key=lambda row: group_of(row["case"])):
        lines = "".join(map(_line, rows))
        page += f"## {group.heading}\n\n{group.says}\n\n{TABLE}{lines}\n"
    return page + GROWTH


def group_of(case: str) -> Group:
    """The section a case belongs to.

    Raises:
        ValueError: if there is none.
    """
    for group in GROUPS:
        if case.startswith(group.beginnings):
            return group
    raise ValueError(f"page: no section of GROUPS takes the case {case!r}.")


def _line(row: Row) -> str:
    more = [f"{row['visited']:.2%} visited"] if "visited" in row else []
    more += [f"{row['memory_gb']:.2f} GB"] if "memory_gb" in row else []
    ratio = f"{row['ratio']:.0%}" if row["method"] == "limit" else f"{row['ratio']:.3g}"
    error = f"{row['error']:.0e}" if row["error"] else ""
    numbers = f"{row['seconds']:.4g} | {ratio} | {error}"
    return f"| {row['case']} | {row['method']} | {numbers} | {', '.join(more)} |\n"


def ratios(rows: list[Row]) -> Figure:
    """One line a case: other methods as dots at their ratio, the limit as a bar at its share."""
    others = [row for row in rows if not row["method"].startswith("dsf")]
    others = [row for row in others if group_of(row["case"]).alike]
    cases = list(dict.fromkeys(row["case"] for row in others))
    figure = Figure(figsize=(9, 0.3 * len(cases) + 1), layout="constrained")
    axes = figure.subplots()
    for kind, marker, label in ((True, "|", "limit of the machine"), (False, "o", "other methods")):
        shown = [row for row in others if (row["method"] == "limit") == kind]
        places = [cases.index(row["case"]) for row in shown]
        axes.plot(
            [row["ratio"] for row in shown],
            places,
            marker,
            label=label,
            markersize=9 if kind else 5,
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), cases, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel="seconds over those of dsf")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def curves(growth: dict[str, list[tuple[int, float]]]) -> Figure:
    """One panel for everything that grows."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(growth)), growth.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        exponent = log(seconds[-1] / seconds[-2]) / log(sizes[-1] / sizes[-2])
        axes.loglog(sizes, seconds, marker="o", base=2)
        axes.set(xlabel=name, ylabel="seconds", title=f"exponent {exponent:.1f}")
    return figure
