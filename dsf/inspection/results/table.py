"""``Table``: measured numbers, one record for every layer, batch index and quantity."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

Record = dict[str, Any]


@dataclass(frozen=True)
class Table(Sequence[Record]):
    """A tidy table: one record for every layer, batch index and quantity.

    Iterating gives dictionaries, so that ``pandas.DataFrame(table)`` works.
    """

    records: tuple[Record, ...]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for record in self.records for name in record))

    def where(self, **wanted: Any) -> "Table":
        """The records whose columns have these values."""
        kept = [
            record
            for record in self.records
            if all(record.get(name) == value for name, value in wanted.items())
        ]
        return Table(tuple(kept))

    def to_csv(self) -> str:
        """Comma-separated text. A cell that a spreadsheet would run as a formula gets a quote."""
        out = io.StringIO()
        writer = csv.DictWriter(out, fieldnames=self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _harmless(v) for k, v in record.items()} for record in self.records)
        return out.getvalue()

    def to_json(self) -> list[Record]:
        """Records for ``json.dumps``: numbers that are not finite become None."""
        return [{k: _plain(v) for k, v in record.items()} for record in self.records]


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
