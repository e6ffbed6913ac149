"""Keeps some long maps without pooling, a cell for every weight, within a number of bytes.

Every map of a page is pooled where it is longer than its picture. Those with the most weight away
from the diagonal and the first key are kept whole as well, so that zooming shows single tokens.
"""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from dsf.report.map_bytes import (
    AT_ONCE,
    FAST,
    MINUS_INFINITY,
    NUMBER,
    SMALL,
    coded,
    decoded,
    exact_windows,
    packed,
)
from dsf.report.pooling import edges, joined, joined_masks, pool, reduced_runs
from dsf.report.selection import Selection, part_of
from dsf.report.views import MapView, views
from dsf.runtime.threads import each_in_parallel
from dsf.systems.kernels import applies

FULL_BYTES = 2**20
"""Default bytes of compressed maps without pooling; in a page they take a third more."""

MOST_BYTES = 13 * 2**18
"""The largest size of one of them: that of softmax attention over 4096 tokens."""

LONGEST = 4096

EXACT_SHARE = 4
"""Up to a quarter of the bytes of maps without pooling hold windows of them exactly."""

Weights = Float[np.ndarray, "rows columns"]
Mask = Bool[np.ndarray, "rows columns"]


def add_full_maps(
    layers: Sequence[dict[str, Any]],
    drawn: Sequence[Selection],
    most_bytes: int,
    *,
    at_a_time: int = 1,
) -> str:
    """Add ``whole`` to the maps that are kept without pooling; return a sentence on them.

    The first is kept in any case, if ``most_bytes`` is above 0.

    Args:
        at_a_time: how many may be formed side by side, on several threads.
    """
    found = [
        (merit, at, k)
        for at, layer in enumerate(layers)
        for k, merit in enumerate(_merits(layer))
        if _is_pooled(layer["maps"][k], layer)
    ]
    order = [(at, k) for _, at, k in sorted(found, reverse=True)] if most_bytes > 0 else []
    spent = kept = 0
    exact = most_bytes // EXACT_SHARE

    def formed(place: tuple[int, int]) -> tuple[MapView, dict[str, Any]]:
        at, k = place
        view = _unpooled(drawn[at], k - _added(layers[at]))
        return view, _full(view)

    with closing(each_in_parallel(formed, order, most=at_a_time)) as pictures:
        for (at, k), (view, picture) in zip(order, pictures, strict=True):
            if picture["rows"] == len(view.weights):
                size = min(len(picture["codes"]) // 2, exact)
                picture["exact"] = exact_windows(view.weights, view.masked, size)
                exact -= len(picture["exact"]["values"])
            spent += len(picture["codes"]) + len(picture.get("exact", {}).get("values", b""))
            if spent > most_bytes and kept:
                break
            layers[at]["maps"][k]["whole"] = picture
            kept += 1
    if len(found) == kept:
        return ""
    return (
        f"Of {len(found)} pooled maps this page keeps {kept} without pooling, within "
        f"{most_bytes / 2**20:.3g} MiB; show(full_resolution=...) keeps more, and layers= "
        "and heads= choose."
    )


def _is_pooled(map: Mapping[str, Any], layer: Mapping[str, Any]) -> bool:
    """Whether a map has fewer cells than weights, and could be kept whole."""
    long = max(layer["written"], layer["read"])
    cells = max(map["view"]["rows"], map["view"]["columns"])
    return not _is_added(map) and cells < long <= LONGEST


def _is_added(map: Mapping[str, Any]) -> bool:
    """Whether it shows all channels together, or the edges of an attribution."""
    return "together" in map or "share" in map


def _added(layer: Mapping[str, Any]) -> int:
    """Return the number of pictures before the maps."""
    return sum(_is_added(each) for each in layer["maps"])


def _merits(layer: Mapping[str, Any]) -> Float[np.ndarray, " maps"]:
    """The squares of the weights of every thumbnail, away from the diagonal and the first key."""
    small = layer["thumbnails"]
    codes: UInt8[np.ndarray, "maps rows columns"] = np.frombuffer(
        zlib.decompress(small["codes"]), np.uint8
    ).reshape(-1, small["rows"], small["columns"])
    shares = np.where(codes > MINUS_INFINITY, decoded(codes, 1.0), 0) ** 2
    away = np.tri(small["rows"], small["columns"], -2, dtype=bool)
    away[:, :1] = False
    sums: Float[np.ndarray, " maps"] = (shares * away).sum(axis=(1, 2))
    return sums


def _unpooled(drawn: Selection, k: int) -> MapView:
    """One map with a cell for every weight."""
    alone = replace(
        drawn,
        places=drawn.places[k : k + 1],
        labels=drawn.labels[k : k + 1],
        samples=drawn.samples[k : k + 1],
        system=part_of(drawn.system, [(k,)]) if drawn.system.batch else drawn.system,
    )
    longest = max(drawn.system.steps, getattr(drawn.system, "read_steps", 1))
    return views(alone, side=longest)[0]


def _full(view: MapView) -> dict[str, Any]:
    """One map, pooled only as far as its size requires."""
    weights, masked = view.weights, view.masked
    longest = max(weights.shape)
    while True:
        picture = picture_of(
            replace(view, weights=weights, masked=masked), exact=False, level=SMALL
        )
        if len(picture["codes"]) <= MOST_BYTES:
            return picture
        longest //= 2
        weights, masked = (each[0] for each in shrunk(weights[None], masked[None], longest))


def picture_of(view: MapView, *, exact: bool, level: int = FAST) -> dict[str, Any]:
    """The codes of a view, compressed, and its weights in float32 if ``exact``."""
    picture = {
        "rows": view.weights.shape[0],
        "columns": view.weights.shape[1],
        "codes": packed(coded(view.weights, view.masked, view.scale), level=level),
    }
    if exact:
        picture["values"] = packed(view.weights.astype(np.float32))
    return picture


def shrunk(
    weights: Float[np.ndarray, "maps rows columns"],
    masked: Bool[np.ndarray, "maps rows columns"],
    side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and masks of some maps pooled once more, to at most ``side`` cells along a side."""
    rows, columns = (edges(size, min(size, side)) for size in weights.shape[1:])
    work = AT_ONCE * weights.size
    if applies(NUMBER, work=work):
        reach = np.full(weights.shape[1], weights.shape[2])
        hidden, _ = joined_masks(masked, rows, columns, compiled=True)
        return joined(weights, reach, rows, columns, work=work).strongest, hidden
    hidden = reduced_runs(np.logical_and, masked, rows, axis=1)
    return (
        pool(pool(weights, rows, axis=1), columns, axis=2),
        reduced_runs(np.logical_and, hidden, columns, axis=2),
    )
