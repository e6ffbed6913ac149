"""``Subject``: one inspection to show, alone or next to others, with its verdicts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.choice import Chosen, chosen_heads, chosen_layers
from dsf.inspection.results.table import Table
from dsf.properties.names import IF_NOT
from dsf.report.escaping import escaped
from dsf.runtime.shapes import of_kind

Shown = Inspection | Sequence[Inspection]
Decided = Table | Sequence[Table | None] | None
LONGEST_CLAIM = 240


@dataclass(frozen=True, eq=False)
class Subject:
    """One inspection to show.

    Attributes:
        name: a name for its model that differs from those of the others.
        verdicts: the verdicts about its layers, as ``dsf check`` gives them; None without any.
    """

    inspection: Inspection
    name: str
    verdicts: Table | None = None

    def decided(self, layer: InspectedLayer, place: tuple[int, ...]) -> list[dict[str, Any]]:
        """The verdicts about one map of a layer, including those about the whole layer."""
        if self.verdicts is None:
            return []
        about = dict(zip(layer.axes, layer.place(place), strict=False))
        return [
            _verdict(record)
            for record in self.verdicts.where(layer=layer.name).to_json()
            if all(record.get(axis, index) == index for axis, index in about.items())
        ]


def narrowed(shown: Shown, layers: Chosen, heads: Chosen) -> Shown:
    """Some layers of every inspection, and some heads or channels of each.

    Heads are numbered among those that the inspection looks at.

    Raises:
        InspectionError: if there is no such layer or head.
        TypeError: if a choice is neither number, slice nor name.
    """
    if isinstance(shown, Inspection):
        return narrowed_one(shown, layers, heads)
    return [narrowed_one(each, layers, heads) for each in _listed(shown)]


def narrowed_one(inspection: Inspection, layers: Chosen, heads: Chosen) -> Inspection:
    """The same for one inspection."""
    if layers is None and heads is None:
        return inspection
    names = chosen_layers([layer.name for layer in inspection], layers)
    kept = [layer for layer in inspection if layer.name in names]
    if heads is not None:
        kept = [_with_heads(layer, heads) for layer in kept]
    return replace(inspection, layers=tuple(kept))


def _with_heads(layer: InspectedLayer, heads: Chosen) -> InspectedLayer:
    count = layer.system.batch[-1] if len(layer.system.batch) > 1 else 1
    found = chosen_heads(layer.name, count, heads)
    if found is None or len(layer.system.batch) < 2:  # a single head has no axis of its own
        return layer
    places = [layer.place((*(0 for _ in layer.axes[:-1]), k))[-1] for k in found]
    return replace(layer, heads=tuple(places))


def subjects(shown: Shown, verdicts: Decided = None) -> list[Subject]:
    """One subject for every inspection.

    Raises:
        TypeError: if ``shown`` holds anything but inspections.
        ValueError: if ``shown`` is empty, or ``verdicts`` does not have one table for each.
    """
    inspections = _listed(shown)
    words = "what dsf check and dsf.properties give, or a list with one for each inspection"
    of_kind("show", "verdicts", verdicts, Table | list | tuple | None, words)
    tables = [verdicts] if verdicts is None or isinstance(verdicts, Table) else list(verdicts)
    for table in tables:
        of_kind("show", "verdicts", table, Table | None, words)
    if not inspections:
        raise ValueError(
            "'result' is an empty list, so there is nothing to show. Pass an inspection."
        )
    if verdicts is None:
        tables = [None] * len(inspections)
    if len(tables) != len(inspections):
        raise ValueError(
            f"'verdicts' must hold one table for each inspection, got {len(tables)} for "
            f"{len(inspections)}. Pass None for an inspection without verdicts."
        )
    names = _different([_name(each.model) for each in inspections])
    return [Subject(*each) for each in zip(inspections, names, tables, strict=True)]


def _listed(shown: Any) -> list[Inspection]:
    """One or several inspections as a list.

    Raises:
        TypeError: if something else is among them.
    """
    several = isinstance(shown, Iterable) and not isinstance(shown, Inspection)
    inspections = list(shown) if several else [shown]
    others = [each for each in inspections if not isinstance(each, Inspection)]
    if others:
        raise TypeError(
            f"'result' must be what dsf.inspect returns, or a list of them, but it holds "
            f"{type(others[0]).__name__}."
        )
    return inspections


def _name(model: str) -> str:
    """The name of a model; of a local folder only its last part, since the page may be shared."""
    path = PurePath(model)
    return escaped(path.name if path.is_absolute() else model) or "model"


def _different(names: list[str]) -> list[str]:
    """The names, where equal ones get a number each."""
    return [
        f"{name} ({names[:at].count(name) + 1})" if names.count(name) > 1 else name
        for at, name in enumerate(names)
    ]


def _verdict(record: dict[str, Any]) -> dict[str, Any]:
    texts = {
        name: escaped(str(record.get(name) or ""), most=LONGEST_CLAIM)
        for name in ("property", "verdict", "level", "scope", "claim", "limits")
    }
    refuted = record.get("verdict") == "REFUTED"
    meaning = IF_NOT.get(texts["property"], "") if refuted else ""
    return {**texts, "meaning": meaning, "observed": record.get("observed")}
