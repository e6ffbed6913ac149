"""One layer of the viewer's content: its facts, its maps and what is known about each."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dsf.inspection import InspectedLayer
from dsf.report.codes import coded, packed
from dsf.report.measured import measures_of
from dsf.report.plain import plain
from dsf.report.plan import Plan
from dsf.report.pooling import edges, pool
from dsf.report.selection import Selection, part_of
from dsf.report.states import states_of
from dsf.report.subjects import Subject
from dsf.report.views import MapView, Progress, views

THUMBNAIL = 48
COLUMNS_LISTED = 8
EMPTY_ROWS_LISTED = 64
MOST_BYTES = 13 * 2**18
"""Of the map that is there token by token: what softmax attention over 4096 tokens takes."""

Weights = Float[np.ndarray, "rows columns"]
Mask = Bool[np.ndarray, "rows columns"]


def layer_content(
    subject: Subject,
    layer: InspectedLayer,
    drawn: Selection,
    planned: Plan,
    *,
    model: int,
    whole: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Everything about one layer; ``whole`` adds its first map token by token."""
    seen = views(drawn, side=planned.side, progress=progress)
    maps = [_map(view, exact=planned.exact) for view in seen]
    finite = not any(view.nans + view.infinities for view in seen)
    known = measures_of(drawn, finite=finite), states_of(drawn, finite=finite), drawn.places
    for map, numbers, state, place in zip(maps, *known, strict=True):
        map.update(measures=numbers, state=state, verdicts=subject.decided(layer, place))
    if whole:
        maps[0]["whole"] = _whole(drawn)
    return {
        **_facts(layer, drawn),
        "model": model,
        "thumbnails": _thumbnails(seen),
        "maps": maps,
    }


def _facts(layer: InspectedLayer, drawn: Selection) -> dict[str, Any]:
    return {
        "name": plain(layer.name),
        "family": plain(layer.family),
        "mixer": type(layer.mixer).__name__,
        "error": float(layer.error) if np.isfinite(layer.error) else None,
        "tolerance": layer.tolerance,
        "written": drawn.system.steps,
        "read": getattr(drawn.system, "read_steps", drawn.system.steps),
        "ports": drawn.system.input_size * drawn.system.output_size,
        "total": drawn.total,
        "chosen": drawn.chosen,
    }


def _thumbnails(seen: list[MapView]) -> dict[str, Any]:
    small = [_shrunk(view.weights, view.masked, THUMBNAIL) for view in seen]
    codes = [coded(*each, view.scale) for each, view in zip(small, seen, strict=True)]
    rows, columns = codes[0].shape
    return {"rows": rows, "columns": columns, "codes": packed(np.stack(codes))}


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
    """The first map of the selection, token by token, or as near to that as has room."""
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
    view = views(alone, side=longest)[0]
    picture = _picture(view, exact=False)
    while len(picture["codes"]) > MOST_BYTES:
        longest //= 2
        weights, masked = _shrunk(view.weights, view.masked, longest)
        picture = _picture(replace(view, weights=weights, masked=masked), exact=False)
    return picture


def _shrunk(weights: Weights, masked: Mask, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A view, pooled once more to at most ``side`` cells a side."""
    rows, columns = (edges(size, min(size, side)) for size in weights.shape)
    stack = pool(pool(weights[None], columns, axis=2), rows, axis=1)[0]
    hidden = np.logical_and.reduceat(np.logical_and.reduceat(masked, columns, axis=1), rows, axis=0)
    return stack, hidden


def _finite(number: float) -> float | None:
    """JSON knows no infinity and no NaN."""
    return float(number) if np.isfinite(number) else None
