"""Every case, one after the other: ``python -m benchmarks [--gate]``.

Writes ``docs/benchmarks.json`` and ``docs/benchmarks.md``; with ``--gate`` it writes nothing and
fails where a ratio is more than a quarter below the one in ``docs/benchmarks.json``.
"""

import argparse
import json
import sys
import time

import torch

from benchmarks import evaluation, maps, page, tallies
from benchmarks.growth import growth
from benchmarks.peers import versions
from benchmarks.record import Row, shortfalls

RECORD = page.DOCS / "benchmarks.json"
CASES = (
    lambda: evaluation.selective(1024),
    lambda: evaluation.selective(4096),
    lambda: evaluation.dual(4096),
    lambda: evaluation.gated_delta(2048),
    lambda: evaluation.gated_delta(8192),
    lambda: evaluation.gated_linear(2048),
    lambda: evaluation.invariant(16384),
    lambda: evaluation.wide(1024),
    maps.selective_maps,
    maps.duality_maps,
    tallies.at_4096,
    lambda: tallies.softmax(4096),
    lambda: [tallies.long(tokens) for tokens in (16_384, 102_400, 1_024_000)],
)


def rows() -> list[Row]:
    """All cases, told on the way."""
    found: list[Row] = []
    for case in CASES:
        begun = time.monotonic()
        made = case()
        found += made
        print(f"-- {made[-1]['case']}: {time.monotonic() - begun:.0f} s", flush=True)
    return found


def main() -> None:
    """Run, and write or compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "--gate", action="store_true", help="compare with the record, write nothing"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, found in versions().items():
        print(f"{name} {found}")
    made = rows()
    if asked.gate:
        failed = shortfalls(made, json.loads(RECORD.read_text(encoding="utf-8"))["rows"])
        sys.exit("\n".join(failed) if failed else 0)
    content = {"versions": versions(), "rows": made, "growth": growth()}
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page.write(content)


if __name__ == "__main__":
    main()
