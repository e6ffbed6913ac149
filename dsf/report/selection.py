"""What is shown: models with their verdicts, layers, heads or channels, and their tokens.

``select`` takes all maps of a layer, or those of most energy. ``plan`` shares the size of the file
among all selected maps: how far they are pooled. What the page and the picture of one inspection
both need of a layer is computed once (``remembered``).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod
from pathlib import PurePath
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from dsf import measures
from dsf.evaluate import respond
from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.choice import Chosen, chosen_heads, chosen_layers
from dsf.inspection.results.table import Table
from dsf.properties.names import IF_NOT
from dsf.report.escaping import escaped
from dsf.systems.algebra import select as entries
from dsf.systems.composite import Operator

Shown = Inspection | Sequence[Inspection]
Decided = Table | Sequence[Table | None] | None
LONGEST_CLAIM = 240


@dataclass(frozen=True, eq=False)
class Subject:
    """One inspection to show."""

    inspection: Inspection
    name: str
    verdicts: Table | None = None

    def decided(self, layer: InspectedLayer, place: tuple[int, ...]) -> list[dict[str, Any]]:
        if self.verdicts is None:
            return []
        about = dict(zip(layer.axes, layer.place(place), strict=False))
        return [
            _verdict(record)
            for record in self.verdicts.where(layer=layer.name).to_json()
            if all(record.get(axis, index) == index for axis, index in about.items())
        ]


def narrowed(shown: Shown, layers: Chosen, heads: Chosen) -> Shown:
    """Some layers of every inspection, and some of the heads or channels that it looks at."""
    if isinstance(shown, Inspection):
        return narrowed_one(shown, layers, heads)
    return [narrowed_one(each, layers, heads) for each in shown]


def narrowed_one(inspection: Inspection, layers: Chosen, heads: Chosen) -> Inspection:
    if layers is None and heads is None:
        return inspection
    names = chosen_layers([layer.name for layer in inspection], layers)
    kept = [layer for layer in inspection if layer.name in names]
    for at, layer in enumerate(kept):
        several = len(layer.system.batch) > 1  # a single head has no axis of its own
        found = chosen_heads(layer.name, layer.system.batch[-1] if several else 1, heads)
        if found is not None and several:
            places = [layer.place((*(0 for _ in layer.axes[:-1]), k))[-1] for k in found]
            kept[at] = replace(layer, heads=tuple(places))
    return replace(inspection, layers=tuple(kept))


def subjects(shown: Shown, verdicts: Decided = None) -> list[Subject]:
    inspections = [shown] if isinstance(shown, Inspection) else list(shown)
    tables = [verdicts] if verdicts is None or isinstance(verdicts, Table) else list(verdicts)
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
    names = [_name(each.model) for each in inspections]
    names = [
        f"{name} ({names[:at].count(name) + 1})" if names.count(name) > 1 else name
        for at, name in enumerate(names)
    ]
    return [Subject(*each) for each in zip(inspections, names, tables, strict=True)]


def _name(model: str) -> str:
    """The name of a model; of a local folder only its last part, since the page may be shared."""
    path = PurePath(model)
    return escaped(path.name if path.is_absolute() else model) or "model"


def _verdict(record: dict[str, Any]) -> dict[str, Any]:
    texts = {
        name: escaped(str(record.get(name) or ""), most=LONGEST_CLAIM)
        for name in ("property", "verdict", "level", "scope", "claim", "limits")
    }
    refuted = record.get("verdict") == "REFUTED"
    meaning = IF_NOT.get(texts["property"], "") if refuted else ""
    return {**texts, "meaning": meaning, "observed": record.get("observed")}


Found = TypeVar("Found")
_KNOWN: WeakKeyDictionary[InspectedLayer, dict[Hashable, object]] = WeakKeyDictionary()


def remembered(layer: InspectedLayer, what: Hashable, compute: Callable[[], Found]) -> Found:
    """What ``compute`` returned for this layer before, as long as the layer lives."""
    known = _KNOWN.setdefault(layer, {})
    if what not in known:
        known[what] = compute()
    return known[what]  # type: ignore[return-value]


CHANNELS = 8
HEADS = 64
SAMPLES = 4


@dataclass(frozen=True, eq=False)
class Selection:
    """Some maps of one layer."""

    places: list[tuple[int, ...]]
    labels: list[str]
    samples: list[int]
    system: Operator
    total: int
    chosen: str


def select(layer: InspectedLayer, *, most: int | None = None) -> Selection:
    """At most so many maps of a sample: heads of the strongest response, channels that mix most."""
    batch = tuple(layer.system.batch)
    samples = batch[0] if batch and layer.axes[:1] == ("sample",) else 1
    of_one = prod(batch) // samples
    of_channels = has_channels(layer)
    most = most or (CHANNELS if of_channels and layer.heads is None else HEADS)
    chosen = ""
    order = np.arange(prod(batch)).reshape(samples, of_one)
    if of_one > most:
        found = remembered(
            layer,
            "strength",
            lambda: (
                measures.off_diagonal_energy(layer.system)
                if of_channels
                else respond(layer.system, layer.signal).abs().square().sum(dim=(-3, -2, -1))
            ),
        )
        strength = found.nan_to_num(nan=float("inf")).reshape(samples, of_one).numpy(force=True)
        order = np.argsort(-strength, axis=1, kind="stable")[:, :most]
        order = order + of_one * np.arange(samples)[:, None]
        chosen = "those whose response has the largest energy, strongest first"
        if of_channels:
            chosen = "those with the most energy off the diagonal, strongest first"
    if samples > SAMPLES:
        order, chosen = order[:SAMPLES], "; ".join(filter(None, (chosen, "the first samples")))
    places = [tuple(int(k) for k in np.unravel_index(at, batch)) for at in order.ravel()]
    return Selection(
        places=places,
        samples=[place[0] if samples > 1 else 0 for place in places],
        labels=[_label(layer.axes, layer.place(place), samples) for place in places],
        system=part_of(layer.system, places) if batch else layer.system,
        total=prod(batch),
        chosen=chosen,
    )


def has_channels(layer: InspectedLayer) -> bool:
    """Whether every channel of the layer has a map of its own."""
    return "channel" in layer.axes and len(layer.system.batch) == len(layer.axes)


def part_of(operator: Operator, places: list[tuple[int, ...]]) -> Operator:
    """The operator of some entries of the batch axes, with one batch axis; copies no neighbours."""
    *outer, first = places[0]
    if places == [(*outer, first + k) for k in range(len(places))]:
        return entries(operator, (*outer, slice(first, first + len(places))))
    axes = (torch.tensor(axis, device=operator.device) for axis in zip(*places, strict=True))
    return entries(operator, tuple(axes))


def _label(axes: tuple[str, ...], place: tuple[int, ...], samples: int) -> str:
    names = [*axes[: len(place)], *(f"axis {k}" for k in range(len(axes), len(place)))]
    shown = [
        f"{name} {k}"
        for name, k in zip(names, place, strict=True)
        if not (name == "sample" and samples == 1)
    ]
    return ", ".join(shown) or "map"


EXACT_CELLS = 2**20
VIEW_CELLS = 146 * 256**2
LARGEST_VIEW, SMALLEST_VIEW, STEP = 256, 48, 16


@dataclass(frozen=True)
class Plan:
    """The sizes of the pictures in the file, and whether it may keep maps without pooling."""

    side: int
    exact: bool
    whole: bool = False


def plan(drawn: Sequence[Selection], *, whole: bool) -> Plan:
    """Share the limits on the number of cells among the maps of all layers."""
    sizes = [max(each.system.steps, getattr(each.system, "read_steps", 1)) for each in drawn]
    cells = sum(len(layer.labels) * size**2 for layer, size in zip(drawn, sizes, strict=True))
    maps = sum(len(layer.labels) for layer in drawn)
    longest = max(sizes, default=1)
    if cells <= EXACT_CELLS and longest <= LARGEST_VIEW:
        return Plan(side=longest, exact=True)
    side = isqrt(VIEW_CELLS // max(maps, 1)) // STEP * STEP
    side = min(max(side, SMALLEST_VIEW), LARGEST_VIEW)
    return Plan(side=side, exact=False, whole=whole)


DECODER = "decoder_input_ids"
"""The input whose texts are an inspection's ``decoder_tokens``."""


def orders_of(
    layer: InspectedLayer, places: Sequence[tuple[int, ...]], inspection: Inspection
) -> tuple[list[dict[str, int]], dict[str, Any]]:
    """Whose tokens rows and keys are, and where these are not in order, as in windows of a picture.

    Returns which of the layer's orders the rows and keys of every map have, each written once, and
    the facts of the layer.
    """
    known: dict[tuple[int, ...], int] = {}
    tokens = {"row_order": layer.row_order, "key_order": layer.column_order}
    of_maps = [
        {
            name: known.setdefault(tuple(each[layer.place(place)].tolist()), len(known))
            for name, each in tokens.items()
            if each is not None
        }
        for place in places
    ]
    rows, keys = layer.row_input, layer.column_input
    row_texts, key_texts = (texts_of(inspection, layer, source) for source in (rows, keys))
    return of_maps, {
        "orders": [list(order) for order in known],
        "same_tokens": same_tokens(layer),
        "disorder": why_not_in_order(layer),
        "inputs": [escaped(rows), escaped(keys)] if rows != keys else None,
        "row_texts": row_texts,
        "key_texts": key_texts,
    }


def texts_of(inspection: Inspection, layer: InspectedLayer, source: str) -> str | bool:
    """Whether tokens of the input ``source`` have texts, or ``decoder`` where these are its own.

    The texts of an inspection are of one input, as ``dsf.inspect`` takes them; a layer of which no
    input is known has them, too.
    """
    if source == DECODER and inspection.decoder_tokens is not None:
        return "decoder"
    names = [name for each in inspection for name in (each.column_input, each.row_input) if name]
    usual = [name for name in ("input_ids", "input 0") if name in names]
    named = next(iter((*usual, *names)), "")
    return source == named or not (layer.row_input or layer.column_input)


def same_tokens(layer: InspectedLayer) -> bool:
    """Whether row k and column k of every map are one token."""
    rows, keys, system = layer.row_order, layer.column_order, layer.system
    if getattr(system, "read_steps", system.steps) != system.steps or layer.columns == "slot":
        return False
    if layer.row_input != layer.column_input:
        return False
    if rows is None or keys is None:
        return rows is keys
    return torch.equal(rows, keys)


def why_not_in_order(layer: InspectedLayer) -> str:
    """Why row k and column k of a map are not both token k; empty if they are."""
    if layer.columns == "slot":
        return "columns are slots and not tokens"
    if not same_tokens(layer):
        return "the queries are other tokens than the keys"
    return "" if layer.row_order is None else "its tokens do not follow one another in the input"
