"""Write what a large job takes into ``scale.md``, from the measured costs of one layer.

python -m benchmarks.unit_costs     # measures: docs/unit_costs.json
python docs/make_scale.py
"""

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().with_name("scale.md")
COSTS = PAGE.with_name("unit_costs.json")
BEGIN, END = "<!-- measured: make_scale.py -->\n", "<!-- end -->\n"
PROMPTS, HOUR = 1_000_000, 3600
HEAD = """| one prompt of {tokens} tokens | {names} |
|---|{rules}|
"""


def main() -> None:
    """Replace what stands between the two marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")


def table() -> str:
    """Every number of the page that was measured, or follows from one."""
    found = json.loads(COSTS.read_text(encoding="utf-8"))
    costs = found["costs"]
    head = HEAD.format(
        tokens=costs[0]["tokens"],
        names=" | ".join(f"{each['shape']}, {each['layers']} layers" for each in costs),
        rules="---|" * (len(costs) - 1) + "---",
    )
    rows = [f"| {name} | {' | '.join(map(say, costs))} |\n" for name, say in LINES.items()]
    library = f"\nOne thread, torch {found['torch']}, transformers {found['transformers']}.\n"
    return head + "".join(rows) + library


def _seconds(cost: dict[str, Any]) -> float:
    """Of all layers on one prompt; the run of the model is part of ``rebuilt``."""
    return cost["layers"] * (cost["rebuilt"] + cost["measured"])


LINES = {
    "one layer: run by the model library": lambda cost: f"{cost['forward']:.2f} s",
    "one layer: run, rebuilt, compared": lambda cost: f"{cost['rebuilt']:.2f} s",
    "one layer: all quantities of its maps": lambda cost: f"{cost['measured']:.2f} s",
    "one layer: weights read, bfloat16 to float32": lambda cost: f"{cost['loading']:.2f} s",
    "one layer: its file": lambda cost: f"{cost['kilobytes']:.1f} kB",
    "one layer: peak of the process": lambda cost: f"{cost['peak']:.1f} GB",
    "weights of all blocks, float32": lambda cost: (
        f"{4e-9 * cost['parameters'] * cost['layers']:.0f} GB"
    ),
    "all layers, one core": lambda cost: f"{_seconds(cost) / 60:.1f} minutes",
    "a million prompts, core hours": lambda cost: f"{PROMPTS * _seconds(cost) / HOUR:,.0f}",
    "the same on 10,000 cores": lambda cost: f"{PROMPTS * _seconds(cost) / HOUR / 1e4:.0f} hours",
    "files of a million prompts": lambda cost: (
        f"{PROMPTS * cost['layers'] * cost['kilobytes'] / 1e6:,.0f} GB"
    ),
    "maps of a million prompts, if kept": lambda cost: (
        f"{PROMPTS * cost['layers'] * cost['heads'] * cost['tokens'] ** 2 * 4 / 1e15:,.0f} PB"
    ),
}


if __name__ == "__main__":
    main()
