"""Write what ``dsf inspect`` takes at real sizes into ``command_times.md``.

python -m benchmarks.command_times     # measures: docs/command_times.json
python -m docs.make_command_times
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().with_name("command_times.md")
RECORD = PAGE.with_suffix(".json")
HEAD = """# The command at real sizes

What `dsf inspect` takes on models of the shapes of published checkpoints, with random weights. The
whole command is a process of its own, from the shell's call to its answer; the start, in which
torch and the model library are imported, takes {start:.1f} s of it. Numbers with a cross are
multiples of the seconds that one plain forward pass of the same model on the same tokens takes.
"""
FOOT = """
{threads} threads on as many cores of one machine that did nothing else; Python {python}, torch
{torch}, transformers {transformers}; float32. Every command ran once, the forward pass is the
fastest of three. The largest formula error of any layer was {formula:.0e}. Written by
`python -m docs.make_command_times` from what `python -m benchmarks.command_times` measured.
"""


def page() -> str:
    """The whole page."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    worst = max(row[kind]["formula"] for row in record["rows"] for kind in KINDS)
    return "\n".join([HEAD.format(**record), *lines(record), FOOT.format(**record, formula=worst)])


KINDS = ("without_report", "with_report")


def lines(record: dict[str, Any]) -> Iterator[str]:
    """One row of the table for every shape and length."""
    yield (
        "| model | tokens | forward | whole command, no report | with report | without the start, "
        "no report | with report |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in record["rows"]:
        forward = row["forward"]
        whole = [row[kind]["whole"] for kind in KINDS]
        work = [row[kind]["work"] for kind in KINDS]
        told = [f"{seconds:.1f} s, ×{seconds / forward:.1f}" for seconds in (*whole, *work)]
        yield f"| {row['shape']} | {row['tokens']:,} | {forward:.2f} s | {' | '.join(told)} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
