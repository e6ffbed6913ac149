"""The page of a run: a table, the machine, and a picture of how time grows."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent.parent / "docs"
HEAD = """# Benchmarks

Written by `make bench`; nothing here is typed by hand. One process, one thread, methods in turns,
medians of processor seconds. *Ratio* is what a method takes over what dsf takes; for *limit* it is
the share of the machine's limit that dsf reaches: exponentials, products or memory, measured in the
same run. *Error* is against double precision, or against the exact pass. Seconds differ from
machine to machine: compare ratios. `python -m benchmarks --gate` fails where one falls more than a
quarter below this table.

"""
TABLE = "| case | method | seconds | ratio | error | |\n|---|---|---|---|---|---|\n"
GROWTH = """
## Growth

![Seconds of one response of Mamba-2 over tokens, states and heads](images/growth.png)
"""


def write(found: dict[str, Any]) -> None:
    """``docs/benchmarks.md`` and its picture."""
    known = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    page = HEAD + f"Versions: {known}.\n\n" + TABLE + "".join(map(_line, found["rows"])) + GROWTH
    (DOCS / "benchmarks.md").write_text(page, encoding="utf-8")
    _draw(found["growth"])


def _line(row: dict[str, Any]) -> str:
    more = [f"{row['visited']:.2%} visited"] if "visited" in row else []
    more += [f"{row['memory_gb']:.2f} GB"] if "memory_gb" in row else []
    numbers = f"{row['seconds']:.4g} | {row['ratio']:.3g} | {row['error']:.0e}"
    return f"| {row['case']} | {row['method']} | {numbers} | {', '.join(more)} |\n"


def _draw(growth: dict[str, list[tuple[int, float]]]) -> None:
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(growth)), growth.items(), strict=True):
        sizes, seconds = zip(*points, strict=True)
        axes.loglog(sizes, seconds, marker="o", base=2)
        axes.set(xlabel=name, ylabel="seconds")
    figure.savefig(DOCS / "images" / "growth.png", dpi=110, metadata={"Software": None})
