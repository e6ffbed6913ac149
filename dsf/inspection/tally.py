"""Verdicts counted: one line for every layer and property."""

from collections import Counter
from typing import Any, NamedTuple

from dsf.inspection.table import Table


class Tally(NamedTuple):
    """How many parts of a layer got which verdict on one property.

    ``observed`` is what was measured on the worst part: the largest by size, for a margin the
    smallest; None where nothing was measured.
    """

    layer: str
    property: str
    proved: int
    refuted: int
    unknown: int
    observed: float | None
    reason: str


def tallies(verdicts: Table) -> list[Tally]:
    """The verdict table of ``findings``, counted, in its own order."""
    pairs = dict.fromkeys((record["layer"], record["property"]) for record in verdicts)
    return [
        _tally(layer, name, verdicts.where(layer=layer, property=name)) for layer, name in pairs
    ]


def _tally(layer: str, name: str, part: Table) -> Tally:
    counts = Counter(record["verdict"] for record in part)
    return Tally(
        layer=layer,
        property=name,
        proved=counts["PROVED"],
        refuted=counts["REFUTED"],
        unknown=counts["UNKNOWN"],
        observed=_worst(name, [record["observed"] for record in part]),
        reason=next((record["limits"] for record in part if record["limits"]), ""),
    )


def _worst(name: str, observed: list[Any]) -> float | None:
    seen = [value for value in observed if value is not None]
    return (min if name == "margin" else max)(seen, key=abs, default=None)
