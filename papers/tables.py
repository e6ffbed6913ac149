"""Printed result tables, read from TOML and compared in decimal fractions."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True)
class PrintedTable:
    """The figures of a table as they are printed.

    Attributes:
        columns: names of the last columns, such as the average.
        rows: the figures of every model.
    """

    number: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Fraction, ...]]

    def at(self, name: str, column: str = "average") -> Fraction:
        """Return one figure."""
        return self.rows[name][self.columns.index(column) - len(self.columns)]

    def tasks(self, name: str) -> tuple[Fraction, ...]:
        """Return the figures in front of the named columns."""
        return self.rows[name][: -len(self.columns)]

    def margin(
        self, name: str, others: Iterable[str] | None = None, *, column: str = "average"
    ) -> Fraction:
        """Return how far ``name`` is ahead of the best of the others, by default of all."""
        others = self.rows if others is None else others
        best = max(self.at(other, column) for other in others if other != name)
        return self.at(name, column) - best

    def better(self, name: str, other: str) -> int:
        """Return on how many tasks ``name`` is ahead of ``other``."""
        return sum(a > b for a, b in zip(self.tasks(name), self.tasks(other), strict=True))


def mean(parts: Iterable[Fraction]) -> Fraction:
    """Return the mean of decimal fractions."""
    known = list(parts)
    return sum(known, Fraction(0)) / len(known)


def read_tables(path: Path) -> dict[str, PrintedTable]:
    """Return the tables of a file by number."""
    tables = {}
    for number, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        rows = {}
        for line in table["rows"].strip().splitlines():
            name, *figures = (part.strip() for part in line.split("|"))
            rows[name] = tuple(map(Fraction, figures))
        tables[number] = PrintedTable(number, tuple(table["columns"]), rows)
    return tables
