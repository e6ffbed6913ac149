"""The pictures of one layer's maps, in one pass over blocks of its rows, and their bytes.

``View`` takes in the rows: pools them, adds them up and keeps the largest weights exactly.
``views`` runs it over the blocks of a layer and returns one ``MapView`` for each map. A picture is
one 8-bit code for each cell, compressed by deflate. Codes 0 to 3 mean masked and non-finite
weights. The others are symmetric about zero and grow with the square root of the weight, so that
small weights keep some digits. Maps longer than their picture are kept without pooling as well,
those with the most weight away from the diagonal and the first key first, within a number of bytes.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from dsf.evaluate import Rows, row_blocks
from dsf.report.selection import Selection, part_of
from dsf.runtime.threads import each_in_parallel
from dsf.systems.composite import ExplicitMap, Operator, SoftmaxRows, parts_of

KEPT = 12
Written = Int[np.ndarray, " rows"]
Read = Int[np.ndarray, " columns"]


class Link(NamedTuple):
    """One weight, of the query at token ``written`` on the key at token ``read``."""

    written: int
    read: int
    weight: float


def strongest(
    known: list[Link], weights: Float[np.ndarray, "rows columns"], written: Written, read: Read
) -> list[Link]:
    """The largest finite weights of some rows and ``known`` ones; of equal ones the first."""
    size = np.abs(weights).ravel()
    floor = abs(known[-1].weight) if len(known) == KEPT else 0.0
    places = np.flatnonzero(size > floor)  # NaN is not
    places = places[np.isfinite(size[places])]
    if len(places) > KEPT:
        found = size[places]
        enough = found >= np.partition(found, -KEPT)[-KEPT]  # of equal ones the first are kept
        places = places[enough][np.argsort(-found[enough], kind="stable")[:KEPT]]
    rows, columns = np.unravel_index(places, weights.shape)
    links = [
        Link(int(written[row]), int(read[column]), float(weights[row, column]))
        for row, column in zip(rows, columns, strict=True)
    ]
    order = sorted(known + links, key=lambda link: (-abs(link.weight), link.written, link.read))
    return order[:KEPT]


BRIGHT = 0.98
FAINTEST = 1 / 16
EVEN = 0.5
FEWEST = 10


@dataclass
class MapView:
    """One map as it is drawn.

    Attributes:
        weights, masked: the pooled map, ``rows columns``.
        strongest: the largest weights, exact.
        column_sums, row_sums: of all weights on every key, and of every query, over all ports.
        empty_rows: the queries whose weights are all zero.
        complex_: whether magnitudes of complex weights are shown.
    """

    label: str
    sample: int
    weights: Float[np.ndarray, "rows columns"]
    masked: Bool[np.ndarray, "rows columns"]
    strongest: list[Link]
    column_sums: Float[np.ndarray, " read"]
    row_sums: Float[np.ndarray, " written"]
    empty_rows: list[int] = field(default_factory=list)
    nans: int = 0
    infinities: int = 0
    complex_: bool = False
    signed: bool = False

    @property
    def scale(self) -> float:
        return abs(self.strongest[0].weight) if self.strongest else 0.0

    @property
    def bright(self) -> float:
        """The weight from which colours are full, so that a few cells do not hide the rest.

        Of the cells that are not masked, 98 in 100 lie below it. The diagonal and the first key,
        which often take most of the weight, do not count. It is at least a sixteenth of the largest
        of those cells, so that noise stays pale next to a few strong weights. Where 98 in 100 also
        lie above half of it, the map is nearly uniform, and would be full of colour everywhere; it
        is then up to four times as large, so that the square root of a uniform map is a half.
        """
        size = np.where(np.isfinite(self.weights), np.abs(self.weights), np.nan)
        if self.row_sums.size == self.column_sums.size:  # queries and keys are the same tokens
            np.fill_diagonal(size, np.nan)
        size[:, :1] = np.nan
        seen = size[np.isfinite(size) & ~self.masked]
        highest = float(seen.max(initial=0.0))
        if not highest:
            return self.scale
        least, full = np.quantile(seen, (1 - BRIGHT, BRIGHT)).tolist()
        full = min(max(full, highest * FAINTEST), self.scale)
        if len(seen) < FEWEST or np.count_nonzero(seen < EVEN * full) > (1 - BRIGHT) * len(seen):
            return full
        least = max(least, EVEN * full)
        return full * (least / full / EVEN) ** 2


Numbers = Float[np.ndarray, "maps rows columns"]
Pooled = Float[np.ndarray, "maps down across"]
Mask = Bool[np.ndarray, "masks rows columns"]


def edges(size: int, bins: int) -> Int[np.ndarray, " bins"]:
    """The starts of ``bins`` nearly equal runs of ``size`` cells, for ``bins`` up to ``size``."""
    return np.arange(bins) * size // bins


def stronger(
    one: Float[np.ndarray, "*size"], other: Float[np.ndarray, "*size"]
) -> Float[np.ndarray, "*size"]:
    """Of two numbers the one of larger magnitude; NaN takes precedence."""
    return np.where(np.isnan(one) | (np.abs(other) <= np.abs(one)), one, other)


def pooled(
    weights: Numbers, firsts: Int[np.ndarray, " down"], starts: Int[np.ndarray, " across"]
) -> Pooled:
    """The strongest weight of every cell, with its sign."""
    for axis, runs in ((1, firsts), (2, starts)):
        if len(runs) < weights.shape[axis]:
            highest = reduced_runs(np.maximum, weights, runs, axis=axis)
            if (weights < 0).any():
                lowest = reduced_runs(np.minimum, weights, runs, axis=axis)
                highest = stronger(highest, lowest)
            weights = highest
    return weights


def reduced_runs(
    join: np.ufunc, numbers: np.ndarray, starts: Int[np.ndarray, " bins"], *, axis: int
) -> np.ndarray:
    """Each run along axis 1 or 2 joined to one; rows one by one, for which ``reduceat`` is slow."""
    if axis > 1:
        return join.reduceat(numbers, starts, axis=axis)
    ends = np.append(starts[1:], numbers.shape[1])
    runs = [join.reduce(numbers[:, a:b], axis=1) for a, b in zip(starts, ends, strict=True)]
    return np.stack(runs, axis=1)


def all_masked(
    masked: Mask, firsts: Int[np.ndarray, " down"], starts: Int[np.ndarray, " across"]
) -> Bool[np.ndarray, "masks down across"]:
    rows = reduced_runs(np.logical_and, masked, firsts, axis=1)
    return reduced_runs(np.logical_and, rows, starts, axis=2)


class View:
    """Maps of ``written`` queries and ``read`` keys, pooled to at most ``side x side`` cells."""

    def __init__(self, maps: int, written: int, read: int, side: int) -> None:
        self.rows = edges(written, min(side, written))
        self.columns = edges(read, min(side, read))
        self.weights = np.zeros((maps, len(self.rows), len(self.columns)))
        self.masked = np.ones((maps, len(self.rows), len(self.columns)), dtype=bool)
        self._row_sums, self._column_sums = np.zeros((maps, written)), np.zeros((maps, read))
        self._filled = np.zeros((maps, written), dtype=bool)
        self._signed = np.zeros(maps, dtype=bool)
        self._nans, self._infinities = np.zeros((2, maps), dtype=int)
        self._strongest: list[list[Link]] = [[] for _ in range(maps)]

    def add(self, weights: Numbers, masked: Mask, written: Written, read: Read) -> None:
        """Add the rows of the next tokens; several rows or columns may belong to one token."""
        cells = np.searchsorted(self.rows, written, side="right") - 1
        firsts = np.flatnonzero(np.diff(cells, prepend=-1))
        starts, into = np.searchsorted(read, self.columns), slice(cells[0], cells[-1] + 1)
        cells_of_rows = pooled(weights, firsts, starts)
        begun = self.weights[:, cells[0]].copy()  # by the last rows that were added
        self.weights[:, into] = cells_of_rows
        self.weights[:, cells[0]] = stronger(begun, cells_of_rows[:, 0])
        self.masked[:, into] &= all_masked(masked, firsts, starts)
        count = int(written[-1] - written[0]) + 1
        tokens = slice(written[0], written[0] + count)
        with np.errstate(invalid="ignore"):  # infinities of either sign
            self._row_sums[:, tokens] = _by_token(weights.sum(axis=2), count)
            columns = weights.sum(axis=1)
            self._column_sums += _by_token(columns, self._column_sums.shape[1])
        self._filled[:, tokens] = _by_token((weights != 0).any(axis=2), count) > 0
        self._signed |= np.logical_or.reduce(weights < 0, axis=(1, 2))
        if not np.isfinite(columns).all():
            self._nans += np.isnan(weights).sum(axis=(1, 2))
            self._infinities += np.isinf(weights).sum(axis=(1, 2))
        pairs = zip(self._strongest, weights, strict=True)
        self._strongest = [strongest(*pair, written, read) for pair in pairs]

    def maps(
        self, labels: Sequence[str], samples: Sequence[int], *, complex_: bool = False
    ) -> list[MapView]:
        return [
            MapView(
                label=labels[k],
                sample=samples[k],
                weights=self.weights[k],
                masked=self.masked[k],
                strongest=self._strongest[k],
                column_sums=self._column_sums[k],
                row_sums=self._row_sums[k],
                empty_rows=np.flatnonzero(~self._filled[k]).tolist(),
                nans=int(self._nans[k]),
                infinities=int(self._infinities[k]),
                complex_=complex_,
                signed=bool(self._signed[k]),
            )
            for k in range(len(labels))
        ]


def _by_token(sums: np.ndarray, tokens: int) -> np.ndarray:
    return sums.reshape(len(sums), tokens, -1).sum(axis=2)


def masked(operator: Operator, rows: Rows) -> Mask:
    """Return where weights are zero for all coefficients: later keys, or hidden by a mask."""
    token, read = rows.written[:, None], rows.read
    source = operator.rows if isinstance(operator, ExplicitMap) else getattr(operator, "C", None)
    hidden = torch.zeros(rows.weights.shape[-2:], dtype=torch.bool, device=read.device)
    ways = {False} if isinstance(source, SoftmaxRows) and source.causal else set()
    if not isinstance(operator, ExplicitMap):
        directions = {getattr(part, "runs_backward", False) for part in parts_of(operator)}
        ways |= directions if len(directions) == 1 else set()
    for backward in ways:
        hidden = hidden | (read < token if backward else read > token)
    if isinstance(source, SoftmaxRows) and source.bias is not None:
        bias = source.bias[..., rows.written[0] : rows.written[-1] + 1, :]
        of_each = (hidden | (bias == -torch.inf)).expand(rows.weights.shape)
        return of_each.reshape(-1, *hidden.shape).numpy(force=True)
    return hidden[None].numpy(force=True)


BLOCK_BYTES = 32 * 2**20
"""The largest number of bytes in one block of rows."""

USUAL, LEAST = 128, 2**17
"""Rows of a block, and weights in blocks of more rows than that, which are of few short maps."""

Progress = Callable[[float], None]
"""A function that is called with the finished share, from 0 to 1."""


def ignored(_share: float) -> None:
    """A ``Progress`` that does nothing."""


AT_ONCE = 2**24
"""The largest number of weights of a layer's drawn maps that are formed once, without pooling."""


def first_side(drawn: Selection, side: int) -> int:
    """The cells along a side with which maps are formed: all where they fit into memory."""
    written, read = drawn.system.steps, getattr(drawn.system, "read_steps", drawn.system.steps)
    fits = max(written, read) <= LONGEST and len(drawn.labels) * written * read <= AT_ONCE
    return max(side, written, read) if fits else side


def views(
    drawn: Selection,
    *,
    side: int,
    progress: Progress = ignored,
    also: Callable[[Rows], None] | None = None,
) -> list[MapView]:
    """Every map, pooled; with several ports a cell shows the largest weight of its two tokens."""
    system, maps = drawn.system, len(drawn.labels)
    written = system.steps
    read = getattr(system, "read_steps", written)
    view, complex_ = View(maps, written, read, side), False
    cells = maps * read * system.input_size  # of a row of all maps
    size = int(np.clip(BLOCK_BYTES // (8 * cells), 1, max(USUAL, LEAST // cells)))
    for block in row_blocks(system, size=size, overwrites=True):
        complex_ = block.weights.is_complex()
        real = block.weights.abs() if complex_ else block.weights
        weights = real.double().numpy(force=True)
        weights = weights.reshape(maps, len(block.written), len(block.read))
        tokens = block.written.numpy(force=True), block.read.numpy(force=True)
        view.add(weights, masked(system, block), *tokens)
        if also is not None:
            also(block)
        progress((int(tokens[0][-1]) + 1) / written)
    return view.maps(drawn.labels, drawn.samples, complex_=complex_)


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


FULL_BYTES = 2**25
"""Default bytes of compressed maps without pooling; in a page they take a third more."""

MOST_BYTES = 13 * 2**18
"""The largest size of one of them: that of softmax attention over 4096 tokens."""

LONGEST = 4096

WHOLE = "whole"
"""The entry of a map with its picture without pooling, until it is known which are kept."""


def add_full_maps(
    layers: Sequence[dict[str, Any]],
    drawn: Sequence[Selection],
    most_bytes: int,
    *,
    at_a_time: int = 1,
) -> str:
    """Replace the views of maps that are kept without pooling; return a sentence on them."""
    found = [
        (merit, at, k)
        for at, layer in enumerate(layers)
        for k, merit in enumerate(_merits(layer))
        if _is_pooled(layer["maps"][k], layer)
    ]
    order = [(at, k) for _, at, k in sorted(found, reverse=True)] if most_bytes > 0 else []
    spent = kept = 0

    def formed(place: tuple[int, int]) -> dict[str, Any]:
        at, k = place
        if (picture := layers[at]["maps"][k].get(WHOLE)) is not None:
            return dict(picture)
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
        return whole_picture(view)

    with closing(each_in_parallel(formed, order, most=at_a_time)) as pictures:
        for (at, k), picture in zip(order, pictures, strict=True):
            spent += len(picture["codes"])
            if spent > most_bytes and kept:
                break
            layers[at]["maps"][k]["view"] = picture
            kept += 1
    for one in (each for layer in layers for each in layer["maps"]):
        one.pop(WHOLE, None)
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
    squares = np.where(codes > MINUS_INFINITY, ((codes.astype(float) - ZERO) / LEVELS) ** 4, 0)
    away = np.tri(small["rows"], small["columns"], -2, dtype=bool)
    away[:, :1] = False
    sums: Float[np.ndarray, " maps"] = (squares * away).sum(axis=(1, 2))
    return sums


def whole_picture(view: MapView) -> dict[str, Any]:
    """One map, pooled only as far as its size requires."""
    while True:
        picture = picture_of(view, exact=False, level=SMALL)
        if len(picture["codes"]) <= MOST_BYTES:
            return picture
        view = smaller(view, max(view.weights.shape) // 2)


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


def smaller(view: MapView, side: int) -> MapView:
    """A view pooled to at most ``side`` cells along a side."""
    if max(view.weights.shape) <= side:
        return view
    weights, masked = shrunk(view.weights[None], view.masked[None], side)
    return replace(view, weights=weights[0], masked=masked[0])


def shrunk(
    weights: Float[np.ndarray, "maps rows columns"],
    masked: Bool[np.ndarray, "maps rows columns"],
    side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and masks of some maps pooled once more, to at most ``side`` cells along a side."""
    rows, columns = (edges(size, min(size, side)) for size in weights.shape[1:])
    return pooled(weights, rows, columns), all_masked(masked, rows, columns)
