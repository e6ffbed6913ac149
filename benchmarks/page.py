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
        ("RWKV-7,", "S4,", "S5,", "LRU,"),
        "RWKV-7 and time-invariant systems with complex states",
        "Response of RWKV-7 with 12 heads of width 64, S4 with 256 channels of 64 states, S5 with "
        "512 channels and 256 states, and the linear recurrent unit with 256 channels and 256 "
        "states. *Without the loop* is what dsf computes where numba is not installed. The last "
        "three have no limit, since a Fourier transform needs fewer operations.",
    ),
    Group(
        ("Time-invariant,", "Impulse response,"),
        "Time-invariant",
        "S4D with 256 channels of 32 complex modes: the response, and the impulse response alone. "
        "Convolutions with a given kernel do not have to compute the kernel.",
    ),
    Group(
        ("Wide scan,",),
        "Scan of uncoupled states",
        "Diagonal transitions of 24,576 states, each with its own decay at every token. *dsf* "
        "writes into memory that is reused, the other methods allocate fresh memory. The limit is "
        "the longer of the times to read two numbers and to write one.",
    ),
    Group(
        ("S6 map",),
        "Maps of Mamba",
        "Sizes are channels x tokens. The map of every channel is computed as a matrix, in memory "
        "that is reused unless the line says fresh. *By blocks of rows*: one block after the "
        "other, where the whole map would not fit.",
    ),
    Group(("SSD map",), "Maps of Mamba-2", "Sizes are heads x tokens, with 128 states."),
    Group(
        ("statistics",),
        "Row reductions of maps",
        "Five [statistics of every row](glossary.md#row-reduction) (negative share, entropy, mean "
        "distance, mass near the diagonal and gain) in one pass and without storing the map; sizes "
        "are heads x tokens. At great lengths parts of the map that are proved to matter less than "
        "1e-6 are skipped; at 16,384 tokens the ratio is to the pass that skips nothing.",
    ),
    Group(
        ("Inspection of",),
        "Inspection of whole models",
        "The models inside the package: *dsf* runs a model, rebuilds every layer in double "
        "precision and compares it with the layer's own output. The other lines are the same with "
        "the run asked about tokens (`checks`), the plain run of the model library, and the "
        "additional time for all maps, or for all measures.",
        alike=False,
    ),
    Group(
        ("Real shape",),
        "Whole models at the shapes of published checkpoints",
        "Random weights. *dsf* runs a model, runs every token mixer once more in double precision "
        "and compares it with the rebuilt layer; the other lines of dsf are the same with the run "
        "asked about tokens (`checks`), and the additional time for all measures and for the "
        "report. *mixers in float64* are the modules of all token mixers once more, and nothing "
        "else: no two numbers can be had for less than the run and these, as the library computes "
        "them. *output_attentions* is the library's own maps, in single precision and not compared "
        "with anything.",
        alike=False,
    ),
    Group(
        ("Maps of",),
        "TransformerLens",
        "The same models in an environment with TransformerLens: *dsf* inspects the model, "
        "compares every layer with its module in float64 and computes all maps, with the run "
        "asked about tokens as well in a line of its own; TransformerLens runs the model with its "
        "cache and computes the maps, in single precision and compared with nothing. Its error is "
        "the largest difference from the maps of dsf below the diagonal. Its maps of the gated "
        "delta rule are a heuristic by its own account. *The run, and its mixers in float64* is "
        "what the two numbers of every layer take at least, before any map is made.",
    ),
)

HEAD = """# Benchmarks

This page compares the speed of dsf with other libraries and with the limits of the machine. It is
written by `make bench`; nothing in it is typed by hand. Every case runs in a process of its own,
with one thread, and times the methods in turns. Times are medians of processor seconds; what takes
less than half a second is done once more right before it is timed, what takes more than a second is
timed once.

- *Ratio* is the time of a method divided by the time of dsf, so it is above one where dsf is
  faster. For *limit* it is the share of the machine's limit that dsf reaches. The limit is what no
  algorithm can be faster than: the longest of three times, each by the best of many turns in the
  same run. The multiply-adds that every algorithm needs are done in registers, where nothing waits
  for memory; the inputs are read once; the response is written once, past the caches. Products of
  large matrices reach four fifths of it, and memory is read while products are computed, so that
  100 % is out of reach.
- *Error* is relative to double precision, or to the pass that skips nothing.

Seconds differ from machine to machine, so compare ratios. `make bench BENCH=--gate` fails if the
ratios of a case fall, in the median, more than a quarter below those on this page, in three runs.
[](accuracy.md) has the errors in single precision for decays that are slow, very fast, or zero.

![Time of other methods divided by the time of dsf](images/ratios.png)

"""
TABLE = "| case | method | seconds | ratio | error | visited, memory |\n|---|---|---|---|---|---|\n"
GROWTH = """## Growth with size

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
    page += f"| limit of one thread in this run | value |\n|---|---|\n{limits}\n"
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
