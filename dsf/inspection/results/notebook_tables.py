"""The HTML tables by which a notebook displays an inspection; they need no script."""

from collections.abc import Iterable
from html import escape
from typing import Any

HEAD = ("layer", "family", "mixer", "maps", "tokens", "formula", "rounding", "tolerance")


def inspection_table(inspection: Any) -> str:
    """A table with one row for each layer, and a list of the mixers that were not read."""
    facts = ", ".join(f"{name} {fact}" for name, fact in inspection.environment.items())
    rows = [_row("td", _cells(layer)) for layer in inspection]
    missed = [
        f"<li><code>{escape(part.name)}</code>: {escape(part.reason)}</li>"
        for part in inspection.unsupported
    ]
    listed = f"<p>Not read:</p><ul>{''.join(missed)}</ul>" if missed else ""
    return (
        f"<p><b>{escape(inspection.model)}</b>: {len(inspection)} layers read"
        f"<br><small>{escape(facts)}</small></p>"
        f"<table>{_row('th', HEAD)}{''.join(rows)}</table>{listed}"
    )


def layer_table(layer: Any) -> str:
    """A table with the facts of one layer."""
    return f"<table>{_row('th', HEAD)}{_row('td', _cells(layer))}</table>"


def _cells(layer: Any) -> Iterable[str]:
    counted = zip(layer.axes, layer.system.batch, strict=False)
    return (
        layer.name,
        layer.family,
        type(layer.mixer).__name__,
        " × ".join(f"{size} {axis}{'s' if size != 1 else ''}" for axis, size in counted) or "1",
        str(layer.system.steps),
        f"{layer.formula:.1e}",
        f"{layer.rounding:.1e}",
        f"{layer.tolerance:.0e}",
    )


def _row(kind: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"
