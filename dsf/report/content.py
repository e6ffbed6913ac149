"""What the page shows, as one JSON value: maps as bytes, everything a person reads as text."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dsf.inspection import InspectedLayer, Inspection
from dsf.report.codes import coded, packed
from dsf.report.measured import measures_of
from dsf.report.plain import plain
from dsf.report.plan import Plan, plan
from dsf.report.pooling import edges, pool
from dsf.report.selection import SAMPLES, Selection, part_of, select
from dsf.report.views import MapView, Progress, untold, views

SCHEMA_VERSION = 1
THUMBNAIL = 48
COLUMNS_LISTED = 8
EMPTY_ROWS_LISTED = 64

Weights = Float[np.ndarray, "rows columns"]
Mask = Bool[np.ndarray, "rows columns"]


def content(inspection: Inspection, *, progress: Progress = untold) -> dict[str, Any]:
    """Layers, maps and tokens of an inspection; every number in it is finite."""
    drawn = [select(layer) for layer in inspection]
    planned = plan(drawn)
    layers = [
        _layer(
            layer,
            selection,
            planned,
            whole=at in planned.whole,
            progress=_part(progress, at, len(drawn)),
        )
        for at, (layer, selection) in enumerate(zip(inspection, drawn, strict=True))
    ]
    tokens = inspection.tokens
    return {
        "schema_version": SCHEMA_VERSION,
        "tokens": tokens and [[plain(token) for token in sample] for sample in tokens[:SAMPLES]],
        "layers": layers,
    }


def embedded(value: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element: pure ASCII, no character that ends one."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _part(progress: Progress, at: int, parts: int) -> Progress:
    """Progress through one of several equal parts, told as progress through all."""
    return lambda share: progress((at + share) / parts)


def _layer(
    layer: InspectedLayer, drawn: Selection, planned: Plan, *, whole: bool, progress: Progress
) -> dict[str, Any]:
    seen = views(drawn, side=planned.side, progress=progress)
    finite = not any(view.nans + view.infinities for view in seen)
    maps = [
        {**_map(view, exact=planned.exact), "measures": numbers}
        for view, numbers in zip(seen, measures_of(drawn, finite=finite), strict=True)
    ]
    if whole:
        maps[0]["whole"] = _whole(drawn)
    small = [_shrunk(view.weights, view.masked) for view in seen]
    thumbnails = [coded(*each, view.scale) for each, view in zip(small, seen, strict=True)]
    return {
        "name": plain(layer.name),
        "family": plain(layer.family),
        "written": drawn.system.steps,
        "read": getattr(drawn.system, "read_steps", drawn.system.steps),
        "ports": drawn.system.input_size * drawn.system.output_size,
        "total": drawn.total,
        "chosen": drawn.chosen,
        "thumbnails": {
            "rows": thumbnails[0].shape[0],
            "columns": thumbnails[0].shape[1],
            "codes": packed(np.stack(thumbnails)),
        },
        "maps": maps,
    }


def _map(view: MapView, *, exact: bool) -> dict[str, Any]:
    order = np.argsort(-np.abs(np.nan_to_num(view.column_sums)), kind="stable")
    return {
        "label": view.label,
        "sample": view.sample,
        "scale": view.scale,
        "nans": view.nans,
        "infinities": view.infinities,
        "magnitudes": view.complex_,
        "empty": view.empty_rows[:EMPTY_ROWS_LISTED],
        "empty_total": len(view.empty_rows),
        "links": [[link.written, link.read, link.weight] for link in view.strongest],
        "columns": [[int(k), _finite(view.column_sums[k])] for k in order[:COLUMNS_LISTED]],
        "row_sums": [_finite(view.row_sums.min()), _finite(view.row_sums.max())],
        "view": _picture(view, exact=exact),
    }


def _picture(view: MapView, *, exact: bool) -> dict[str, Any]:
    picture = {
        "rows": view.weights.shape[0],
        "columns": view.weights.shape[1],
        "codes": packed(coded(view.weights, view.masked, view.scale)),
    }
    if exact:
        picture["values"] = packed(view.weights.astype(np.float32))
    return picture


def _whole(drawn: Selection) -> dict[str, Any]:
    """The first map of the selection, token by token."""
    first: list[tuple[int, ...]] = [(0,)] if drawn.system.batch else []
    alone = Selection(
        places=drawn.places[:1],
        labels=drawn.labels[:1],
        samples=drawn.samples[:1],
        system=part_of(drawn.system, first) if first else drawn.system,
        total=1,
        chosen="",
    )
    longest = max(drawn.system.steps, getattr(drawn.system, "read_steps", 1))
    return _picture(views(alone, side=longest)[0], exact=False)


def _shrunk(weights: Weights, masked: Mask) -> tuple[np.ndarray, np.ndarray]:
    """A view, pooled once more to the size of a thumbnail."""
    rows, columns = (edges(size, min(size, THUMBNAIL)) for size in weights.shape)
    stack = pool(pool(weights[None], columns, axis=2), rows, axis=1)[0]
    hidden = np.logical_and.reduceat(np.logical_and.reduceat(masked, columns, axis=1), rows, axis=0)
    return stack, hidden


def _finite(number: float) -> float | None:
    """JSON knows no infinity and no NaN."""
    return float(number) if np.isfinite(number) else None
