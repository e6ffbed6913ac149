"""Heads by name, for a terminal and for JSON."""

from typing import Any

from dsf.cli.terminal import print_table
from dsf.inspection import Inspection
from dsf.inspection.results.heads import excess, strongest
from dsf.inspection.results.table import Record, Table
from dsf.report.escaping import escaped

NUMBERS = ("value", "net", "control")


def show_heads(inspection: Inspection, table: Table, top: int) -> None:
    """The strongest heads of every score, and the one of each that a person would name."""
    named = strongest(table)
    rows = []
    for best in named:
        found = [row for row in table.where(score=best["score"]) if row["value"] == row["value"]]
        found.sort(key=excess, reverse=True)
        rows += [(row["score"], _where(row), *_numbers(row)) for row in found[:top]]
    print_table(("score", "head", *NUMBERS), rows)
    for best in named:
        name = best["score"].replace("_", " ")
        print(f"{name}: {_where(best)} ({best['value']:.2f}, control {best['control']:.2f})")
    missing = [row for row in table if "note" in row]
    for row in missing:
        print(f"no scores: {row['layer']}: {row['note']}")
    for missed in inspection.unsupported:
        print(f"not read: {missed.name}: {missed.reason}")


def head_facts(inspection: Inspection, table: Table) -> dict[str, Any]:
    """The same as JSON, with every head."""
    return {
        "model": escaped(inspection.model),
        "heads": table.to_json(),
        "strongest": strongest(table).to_json(),
        "unsupported": [
            {"name": escaped(missed.name, most=500), "reason": missed.reason}
            for missed in inspection.unsupported
        ],
    }


def _where(row: Record) -> str:
    """``model.layers.1.self_attn head 0``."""
    fixed = ("layer", "score", *NUMBERS)
    return " ".join([row["layer"], *(f"{k} {v}" for k, v in row.items() if k not in fixed)])


def _numbers(row: Record) -> tuple[str, ...]:
    return tuple(f"{row[name]:.3f}" for name in NUMBERS)
