"""Encodes maps as bytes: one 8-bit code for each cell, compressed by deflate.

Codes 0 to 3 mean masked and non-finite weights. The others are symmetric about zero and grow
with the square root of the weight, so that small weights keep some digits. Maps longer than their
picture are kept without pooling as well, those with the most weight away from the diagonal and the
first key first, and their strongest windows in float32, within a number of bytes.
"""

import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from dsf.report.selection import Selection, part_of
from dsf.report.views import MapView, all_masked, edges, pooled, views
from dsf.runtime.threads import each_in_parallel

MASKED, NAN, PLUS_INFINITY, MINUS_INFINITY = 0, 1, 2, 3
ZERO = 129
LEVELS = 125


def coded(
    weights: Float[np.ndarray, "*size"], masked: Bool[np.ndarray, "*size"], scale: float
) -> UInt8[np.ndarray, "*size"]:
    """The code of every weight; ``scale`` is the largest finite magnitude."""
    share = (weights / (scale or 1)).astype(np.float32)  # at most 1 in magnitude, where finite
    odd = ~np.isfinite(share)
    levels = np.sqrt(np.abs(np.where(odd, 0, share) if odd.any() else share))
    codes = np.rint(ZERO + LEVELS * np.copysign(levels, share)).astype(np.uint8)
    codes[masked & (share == 0)] = MASKED
    if odd.any():
        codes[np.isnan(share)] = NAN
        codes[share == np.inf] = PLUS_INFINITY
        codes[share == -np.inf] = MINUS_INFINITY
    return codes


def decoded(codes: UInt8[np.ndarray, "*size"], scale: float) -> Float[np.ndarray, "*size"]:
    """The weights of codes, to within one level; 0 where masked, ``nan`` where not finite."""
    levels = (codes.astype(float) - ZERO) / LEVELS
    weights = np.where(codes <= MINUS_INFINITY, np.nan, levels * np.abs(levels) * scale)
    return np.where(codes == MASKED, 0, weights)


FAST = 1  # of deflate: a tenth more bytes than by default, in a sixth of the time
SMALL = 6
STRATEGIES = zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY
SAMPLE = 2**13
"""Number of bytes from the middle on which the compression strategy is chosen."""


def packed(numbers: np.ndarray, *, level: int = FAST) -> bytes:
    """The compressed bytes of an array, little-endian, for a browser's DecompressionStream.

    Where a sample takes no more bytes so, of all repetitions only runs of one byte are looked for:
    the maps of trained attention repeat nothing else, and are smaller this way, in a fraction of
    the time. Maps whose rows resemble each other are compressed at ``level``.
    """
    little = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
    data = little.tobytes()
    start = max(0, len(data) - SAMPLE) // 2
    sample = data[start : start + SAMPLE]
    runs, repetitions = (_deflated(sample, FAST, each) for each in STRATEGIES)
    return _deflated(data, level, STRATEGIES[len(runs) > len(repetitions)])


def _deflated(data: bytes, level: int, strategy: int) -> bytes:
    deflate = zlib.compressobj(level, strategy=strategy)
    return deflate.compress(data) + deflate.flush()


WINDOW = 64
"""Queries and keys of a window."""

Weights = Float[np.ndarray, "rows columns"]


def exact_windows(weights: Weights, masked: Bool[np.ndarray, "rows columns"], most: int) -> Any:
    """The windows that fit into ``most`` compressed bytes, those with the most weight first."""
    chosen: list[tuple[int, int]] = []
    parts: list[Weights] = []
    left = most
    energy = np.where(masked | ~np.isfinite(weights), 0, weights) ** 2
    energy[:, :1] = 0
    if energy.shape[0] == energy.shape[1]:
        np.fill_diagonal(energy, 0)
    tops, starts = (np.arange(0, length, WINDOW) for length in weights.shape)
    sums = np.add.reduceat(np.add.reduceat(energy, tops, axis=0), starts, axis=1)
    for at in np.argsort(-sums, axis=None, kind="stable"):
        if sums.flat[at] <= 0:
            break
        row, column = np.unravel_index(at, sums.shape)
        top, start = int(tops[row]), int(starts[column])
        part = weights[top : top + WINDOW, start : start + WINDOW].astype(np.float32)
        left -= len(packed(part))
        if left < 0:
            break
        chosen.append((top, start))
        parts.append(part.ravel())
    numbers = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return {"side": WINDOW, "at": chosen, "values": packed(numbers)}


FULL_BYTES = 2**25
"""Default bytes of compressed maps without pooling; in a page they take a third more."""

MOST_BYTES = 13 * 2**18
"""The largest size of one of them: that of softmax attention over 4096 tokens."""

LONGEST = 4096

EXACT_SHARE = 4
"""Up to a quarter of the bytes of maps without pooling hold windows of them exactly."""


def add_full_maps(
    layers: Sequence[dict[str, Any]],
    drawn: Sequence[Selection],
    most_bytes: int,
    *,
    at_a_time: int = 1,
) -> str:
    """Add ``whole`` to the maps that are kept without pooling; return a sentence on them."""
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
        k -= sum(map(_is_added, layers[at]["maps"]))
        layer = drawn[at]
        alone = replace(
            layer,
            places=layer.places[k : k + 1],
            labels=layer.labels[k : k + 1],
            samples=layer.samples[k : k + 1],
            system=part_of(layer.system, [(k,)]) if layer.system.batch else layer.system,
        )
        longest = max(layer.system.steps, getattr(layer.system, "read_steps", 1))
        (view,) = views(alone, side=longest)
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
    return "together" in map or "share" in map


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
    return pooled(weights, rows, columns), all_masked(masked, rows, columns)
