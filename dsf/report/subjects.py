"""What is shown: one inspection, or several side by side, each with what was decided about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.results.table import Table
from dsf.report.escaping import escaped

Shown = Inspection | Sequence[Inspection]
Decided = Table | Sequence[Table | None] | None
LONGEST_CLAIM = 240


@dataclass(frozen=True, eq=False)
class Subject:
    """One inspection to show.

    Attributes:
        name: what to call its model, different from the others'.
        verdicts: what was decided about its layers, as ``dsf check`` does; None if nothing was.
    """

    inspection: Inspection
    name: str
    verdicts: Table | None = None

    def decided(self, layer: InspectedLayer, place: tuple[int, ...]) -> list[dict[str, Any]]:
        """The verdicts about one map of a layer; those about the whole layer are its own too."""
        if self.verdicts is None:
            return []
        about = dict(zip(layer.axes, place, strict=False))
        return [
            _verdict(record)
            for record in self.verdicts.where(layer=layer.name).to_json()
            if all(record.get(axis, index) == index for axis, index in about.items())
        ]


def subjects(shown: Shown, verdicts: Decided = None) -> list[Subject]:
    """One subject for every inspection.

    Raises:
        TypeError: if something other than inspections came.
        ValueError: if no inspection came, or not one table of verdicts for each.
    """
    inspections = [shown] if isinstance(shown, Inspection) else list(shown)
    tables = [verdicts] if verdicts is None or isinstance(verdicts, Table) else list(verdicts)
    others = [each for each in inspections if not isinstance(each, Inspection)]
    if others:
        raise TypeError(
            f"'inspection' must be what dsf.inspect gives, or a list of such, but it holds "
            f"{type(others[0]).__name__}."
        )
    if not inspections:
        raise ValueError("'inspection' is an empty list, so there is nothing to show.")
    if verdicts is None:
        tables = [None] * len(inspections)
    if len(tables) != len(inspections):
        raise ValueError(
            f"'verdicts' must hold one table for each inspection, but {len(tables)} came for "
            f"{len(inspections)}. Give None for an inspection of which nothing was decided."
        )
    names = _different([_name(each.model) for each in inspections])
    return [Subject(*each) for each in zip(inspections, names, tables, strict=True)]


def _name(model: str) -> str:
    """Of a folder on this machine its own name: the path is no matter of the reader's."""
    path = PurePath(model)
    return escaped(path.name if path.is_absolute() else model) or "model"


def _different(names: list[str]) -> list[str]:
    """Equal names with a number each."""
    return [
        f"{name} ({names[:at].count(name) + 1})" if names.count(name) > 1 else name
        for at, name in enumerate(names)
    ]


def _verdict(record: dict[str, Any]) -> dict[str, Any]:
    texts = {
        name: escaped(str(record.get(name) or ""), most=LONGEST_CLAIM)
        for name in ("property", "verdict", "level", "claim", "limits")
    }
    return {**texts, "observed": record.get("observed")}
