"""A comparison of two inspections, for a terminal and for JSON."""

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from dsf.cli.terminal import print_table
from dsf.inspection.results.table import Record
from dsf.properties.comparison import DISTANCE, Comparison

FIXED = ("layer", "other", "quantity", "first", "second", "difference", "flipped", "other_head")


def show_comparison(table: Comparison) -> None:
    """Pairs of layers, means of quantities, verdicts that are not the same."""
    rows, changed = [], table.flips()
    for (one, other), partner in zip(table.pairs, table.partners, strict=True):
        records = table.where(layer=one.name, other=other.name)
        distances = [row.get("first") for row in records.where(quantity=DISTANCE)]
        known = [each for each in distances if each is not None]
        shown = f"{fmean(known):.3g}" if known else "different sizes"
        matched = "as they are" if partner is None else " ".join(map(str, partner))
        flips = len(changed.where(layer=one.name, other=other.name))
        rows.append((one.name, other.name, shown, matched, str(flips)))
    print_table(("layer", "compared with", "distance of maps", "heads", "verdicts changed"), rows)
    print_table(
        ("quantity", "first", "second", "mean difference"),
        [
            (name, f"{first:.4g}", f"{second:.4g}", f"{apart:.3g}")
            for name, first, second, apart in _means(table)
        ],
    )
    if changed:
        print_table(
            ("where", "property", "first", "second"),
            [(_where(row), row["quantity"], row["first"], row["second"]) for row in changed],
        )


def comparison_facts(table: Comparison) -> dict[str, Any]:
    """Every record as JSON."""
    partners = [None if each is None else list(each) for each in table.partners]
    pairs = [
        {"first": one.name, "second": other.name, "heads": partner}
        for (one, other), partner in zip(table.pairs, partners, strict=True)
    ]
    return {"pairs": pairs, "flips": len(table.flips()), "records": table.to_json()}


def _means(table: Comparison) -> Iterable[tuple[str, float, float, float]]:
    """Of every quantity the means over layers and heads, and of the absolute difference."""
    by_name: dict[str, list[Record]] = {}
    for row in table:
        if row.get("difference") is not None and row["difference"] == row["difference"]:
            by_name.setdefault(row["quantity"], []).append(row)
    for name, rows in by_name.items():
        columns = ([row[column] for row in rows] for column in ("first", "second"))
        first, second = map(fmean, columns)
        yield name, first, second, fmean(abs(row["difference"]) for row in rows)


def _where(row: Record) -> str:
    return " ".join([row["layer"], *(f"{k} {v}" for k, v in row.items() if k not in FIXED)])
