"""Every case, one after the other: ``python -m benchmarks [--gate] [--only WORD]``.

Writes ``docs/benchmarks.json`` and ``docs/benchmarks.md``; with ``--gate`` it writes nothing and
fails where the ratios of a case are a quarter below those in ``docs/benchmarks.json``, in three
runs of the case; with ``--only`` it runs the cases with that word in their names and writes
nothing, with ``--only WORD --write`` it puts their rows in the place of those in the record.
"""

import argparse
import json
import sys
import time

import torch

from benchmarks import page
from benchmarks.cases import CASES, in_its_process
from benchmarks.growth import growth
from benchmarks.limits import figures
from benchmarks.peers import versions
from benchmarks.record import Row, missing, shortfalls

RECORD = page.DOCS / "benchmarks.json"
RUNS = 3
"""So often a case runs at most before the gate says that it falls short of the record."""


def rows(names: list[str]) -> list[Row]:
    """Cases by name, told on the way."""
    found: list[Row] = []
    for name in names:
        begun = time.monotonic()
        made = in_its_process(name)
        for row in made:
            print(told(row))
        found += made
        print(f"-- {name}: {time.monotonic() - begun:.0f} s", flush=True)
    return found


def told(row: Row) -> str:
    """One line for the screen."""
    taken = f"{row['seconds'] * 1e3:9.1f} ms {row['ratio']:7.2f}"
    return f"{row['case']:>36} {row['method']:>30} {taken}  error {row['error']:.0e}"


def gate(names: list[str], record: list[Row]) -> list[str]:
    """What falls short of the record in every run of it: a busy machine may spoil some."""
    short: dict[str, list[str]] = {}
    compared: list[Row] = []
    for name in names:
        compared += (made := rows([name]))
        failed = shortfalls(made, record)
        for _ in range(RUNS - 1):
            if failed:
                print(f"-- {name} once more", flush=True)
                again = shortfalls(rows([name]), record)
                failed = {case: again[case] for case in failed if case in again}
        short |= failed
    for each in missing(compared, record) if names == list(CASES) else ():
        print(f"not in this run: {each}")
    return [said for each in short.values() for said in each]


def renew(made: list[Row]) -> None:
    """Put rows in the place of those of the same cases in the record, and write the page anew."""
    content = json.loads(RECORD.read_text(encoding="utf-8"))
    content["rows"] = renewed(content["rows"], made)
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page.write(content)


def renewed(record: list[Row], made: list[Row]) -> list[Row]:
    """The rows of a record, with all rows of the cases of ``made`` from there."""
    cases = {row["case"] for row in made}
    kept = [row for row in record if row["case"] not in cases]
    new = [row for row in record if row["case"] in cases]
    place = next((k for k, row in enumerate(record) if row in new), len(kept))
    return [*kept[:place], *made, *kept[place:]]


def main() -> None:
    """Run, and write or compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--gate", action="store_true", help="compare with the record")
    parser.add_argument("--only", metavar="WORD", default="", help="cases with this in their names")
    parser.add_argument("--write", action="store_true", help="renew the rows of these cases")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, found in versions().items():
        print(f"{name} {found}")
    names = [name for name in CASES if asked.only in name]
    if asked.gate:
        failed = gate(names, json.loads(RECORD.read_text(encoding="utf-8"))["rows"])
        sys.exit("\n".join(failed) if failed else 0)
    if asked.only:
        made = rows(names)
        if asked.write:
            renew(made)
        return
    begun = time.monotonic()
    limits = figures()
    content = {"versions": versions(), "limits": limits, "rows": rows(names)}
    content["growth"] = growth()
    content["minutes"] = (time.monotonic() - begun) / 60
    RECORD.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page.write(content)


if __name__ == "__main__":
    main()
