"""``Table``: measured numbers, one record for every layer, batch index and quantity.

The HTML tables by which a notebook displays an inspection; they need no script.
"""

import csv
import io
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from numbers import Real
from statistics import fmean
from typing import Any, overload

Record = dict[str, Any]


KINDS = ("quantity", "score", "property")
"""Columns that say what a record is about; numbers of different ones are never mixed."""
NUMBERS = ("value", "net", "control", "mean", "first", "second", "difference", "share", "observed")
"""Columns of which a mean can be taken."""
SHOWN, ENDS = 12, 5
"""Records that a table shows, and of a longer one how many of its beginning and its end."""
GAP = "  "
LONGEST_CELL = 60


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pairs = (zip(row, widths, strict=True) for row in rows)
    return [GAP.join(cell.ljust(width) for cell, width in row).rstrip() for row in pairs]


@dataclass(frozen=True, repr=False)
class Table(Sequence[Record]):
    """A tidy table: one record for every layer, batch index and quantity.

    What measures, scores, verdicts, comparisons and jobs return is one of these. Iterating gives
    dictionaries; a slice, ``where`` and ``mean`` give tables again. A notebook shows it as a table
    in HTML.

    >>> table = Table(({"layer": "a", "head": 0, "quantity": "half_life", "value": 3.0},
    ...                {"layer": "a", "head": 1, "quantity": "half_life", "value": 5.0}))
    >>> table
    layer  head  quantity   value
    a      0     half_life  3
    a      1     half_life  5
    2 records
    >>> table.mean(by="layer")
    layer  quantity   value  count
    a      half_life  4      2
    1 record
    """

    records: tuple[Record, ...]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Table": ...
    def __getitem__(self, index: int | slice | str) -> "Record | Table":
        if isinstance(index, str):
            raise TypeError(
                f"table[{index!r}]: a table is indexed by the numbers of its records. A column is "
                f"[row[{index!r}] for row in table] or table.to_pandas()[{index!r}]."
            )
        return Table(self.records[index]) if isinstance(index, slice) else self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        """The first and the last records in columns, and how many there are."""
        head, rows = self._shown()
        lines = aligned((head, *rows))
        return "\n".join([*lines, self._counted()] if self.columns else [self._counted()])

    def _repr_html_(self) -> str:
        """The same for a notebook, without a script; nothing in it is taken for markup."""
        return f"{_html(*self._shown())}<p>{escape(self._counted())}</p>"

    def _shown(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        columns, is_long = self.columns, len(self) > SHOWN
        shown = (*self.records[:ENDS], *self.records[-ENDS:]) if is_long else self.records
        rows = [_cells(record, columns) for record in shown]
        if is_long:
            rows.insert(ENDS, ("…",) * len(columns))
        return columns, rows

    def _counted(self) -> str:
        return f"{len(self):,} record{'s' * (len(self) != 1)}"

    def _cells(self, column: str) -> list[Any]:
        return [row[column] for row in self.records if column in row]

    def _has(self, asked: str, column: Any) -> None:
        """Refuse what is not a column; ``asked`` says who asks and for what."""
        if column not in self.columns:
            raise ValueError(f"{asked} {column!r}, but the columns are {', '.join(self.columns)}.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns, in the order in which they first appear."""
        return tuple(dict.fromkeys(name for record in self.records for name in record))

    def where(self, **wanted: Any) -> "Table":
        """The records whose columns have these values.

        Raises:
            ValueError: if there are records, and none has such a column; or if a value is several,
                or no number, which no record equals.
        """
        if not self.records:
            return self
        for name, value in wanted.items():
            self._has("where: expected a column, got", name)
            if not _can_be_equal(value, self._cells(name)):
                raise ValueError(
                    f"where: {name} is {value!r}, but one value is wanted. Several are "
                    f"[row for row in table if row[{name!r}] in several]."
                )
        pairs = wanted.items()
        kept = (row for row in self.records if all(row.get(name) == one for name, one in pairs))
        return Table(tuple(kept))

    def mean(self, by: str | Sequence[str] = ()) -> "Table":
        """The means over all records that agree in the columns ``by``.

        Records of different quantities, scores or properties are never mixed. ``count`` says over
        how many numbers of the first column a mean goes; those that are not finite are left out.

        Args:
            by: one column or several, such as ``"layer"`` or ``("layer", "sample")``.

        Raises:
            ValueError: if there is no such column, or no column of numbers.
        """
        if not self.records:
            return self
        asked = tuple(by) if isinstance(by, Collection) and not isinstance(by, str) else (by,)
        for name in asked:
            self._has("mean: by has", name)
        cells = {name: self._cells(name) for name in self.columns if name in NUMBERS}
        numbers = [name for name, several in cells.items() if any(map(_is_number, several))]
        if not numbers:
            raise ValueError(
                f"mean: none of the columns {', '.join(self.columns)} holds numbers. It knows "
                f"{', '.join(NUMBERS)}."
            )
        kept = [*asked, *(kind for kind in KINDS if kind in self.columns and kind not in asked)]
        groups: dict[tuple[Any, ...], list[Record]] = {}
        for record in self.records:
            groups.setdefault(tuple(record.get(name) for name in kept), []).append(record)
        return Table(
            tuple(
                {**dict(zip(kept, key, strict=True)), **_means(records, numbers)}
                for key, records in groups.items()
            )
        )

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with one row for every record.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise ImportError(
                "to_pandas needs pandas, which is not installed: pip install pandas."
            ) from None
        return pandas.DataFrame(list(self.records), columns=list(self.columns))

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
    if not _is_number(value):
        return value
    plain = value.item() if hasattr(value, "item") else value  # a number of NumPy
    return plain if math.isfinite(plain) else None


def _is_number(value: Any) -> bool:
    """Also numbers of NumPy, which are registered as real numbers."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _can_be_equal(value: Any, cells: Sequence[Any]) -> bool:
    """Whether a cell may equal this: one value that equals itself, or of a kind that is there."""
    several = isinstance(value, Collection) and not isinstance(value, str)
    if several and getattr(value, "ndim", 1) != 0:
        return any(type(cell) is type(value) for cell in cells)
    return not (_is_number(value) and math.isnan(value))


def _means(records: Sequence[Record], numbers: Sequence[str]) -> Record:
    cells = {name: [row[name] for row in records if _is_number(row.get(name))] for name in numbers}
    finite = {name: list(filter(math.isfinite, several)) for name, several in cells.items()}
    means = {name: fmean(known) if known else math.nan for name, known in finite.items()}
    return {**means, "count": len(finite[numbers[0]])}


def _cells(record: Record, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cell(record[name]) if name in record else "" for name in columns)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


HEAD = ("layer", "family", "mixer", "maps", "tokens", "formula", "rounding", "tolerance")


def inspection_table(inspection: Any) -> str:
    """A table with one row for each layer, and a list of the mixers that were not read."""
    rows = []
    for layer in inspection:
        counted = zip(layer.axes, layer.system.batch, strict=False)
        maps = " × ".join(f"{size} {axis}{'s' if size != 1 else ''}" for axis, size in counted)
        errors = f"{layer.formula:.1e}", f"{layer.rounding:.1e}", f"{layer.tolerance:.0e}"
        mixer, tokens = type(layer.mixer).__name__, str(layer.system.steps)
        rows.append((layer.name, layer.family, mixer, maps or "1", tokens, *errors))
    facts = ", ".join(f"{name} {fact}" for name, fact in inspection.environment.items())
    missed = [
        f"<li><code>{escape(part.name)}</code>: {escape(part.reason)}</li>"
        for part in inspection.unsupported
    ]
    listed = f"<p>Not read:</p><ul>{''.join(missed)}</ul>" if missed else ""
    return (
        f"<p><b>{escape(inspection.model)}</b>: {len(inspection)} layers read"
        f"<br><small>{escape(facts)}</small></p>{_html(HEAD, rows)}{listed}"
    )


def _html(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = (
        f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in row)}</tr>"
        for kind, row in (("th", head), *(("td", row) for row in rows))
    )
    return f"<table>{''.join(lines)}</table>"
