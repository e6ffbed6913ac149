"""Encodes maps as bytes: one 8-bit code for each cell, compressed by deflate.

Codes 0 to 3 mean masked and non-finite weights. The others are symmetric about zero and grow
with the square root of the weight, so that small weights keep some digits. Of a map without
pooling, the windows with the most weight away from the diagonal and the first key are kept in
float32 as well, within a number of bytes.
"""

import zlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from dsf.systems.kernels import applies

MASKED, NAN, PLUS_INFINITY, MINUS_INFINITY = 0, 1, 2, 3
ZERO = 129
LEVELS = 125

NUMBER = torch.zeros(1, dtype=torch.float64)
AT_ONCE = 64
"""Typical number of pictures made in a row: from so many on, compiling pays for small ones."""


def coded(
    weights: Float[np.ndarray, "*size"], masked: Bool[np.ndarray, "*size"], scale: float
) -> UInt8[np.ndarray, "*size"]:
    """The code of every weight; ``scale`` is the largest finite magnitude."""
    if applies(NUMBER, work=AT_ONCE * weights.size):
        found = _compiled(weights, masked, scale)
        if found is not None:
            return found
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


def _compiled(
    weights: Float[np.ndarray, "*size"], masked: Bool[np.ndarray, "*size"], scale: float
) -> UInt8[np.ndarray, "*size"] | None:
    """The codes by a compiled loop; None where a weight is not finite."""
    from dsf.systems.kernels.picture_cells import code_cells

    codes = np.empty(weights.shape, dtype=np.uint8)
    flat = (np.ascontiguousarray(each).reshape(-1) for each in (weights, masked))
    scales = (float(scale or 1), float(ZERO), float(LEVELS))
    return codes if code_cells(*flat, *scales, MASKED, codes.reshape(-1)) else None


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
    """The windows that fit into ``most`` compressed bytes, those with the most weight first.

    Returns:
        Their first rows and columns, and the numbers of all of them, window after window.
    """
    chosen: list[tuple[int, int]] = []
    parts: list[Weights] = []
    left = most
    for top, start in _ordered(weights, masked):
        part = weights[top : top + WINDOW, start : start + WINDOW].astype(np.float32)
        left -= len(packed(part))
        if left < 0:
            break
        chosen.append((top, start))
        parts.append(part.ravel())
    numbers = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    return {"side": WINDOW, "at": chosen, "values": packed(numbers)}


def _ordered(weights: Weights, masked: Bool[np.ndarray, "rows columns"]) -> list[tuple[int, int]]:
    """The corners of the windows that are not masked, by the energy of their weights."""
    energy = np.where(masked | ~np.isfinite(weights), 0, weights) ** 2
    energy[:, :1] = 0
    if energy.shape[0] == energy.shape[1]:
        np.fill_diagonal(energy, 0)
    tops, starts = (np.arange(0, length, WINDOW) for length in weights.shape)
    sums = np.add.reduceat(np.add.reduceat(energy, tops, axis=0), starts, axis=1)
    order = np.argsort(-sums, axis=None, kind="stable")
    found = [np.unravel_index(at, sums.shape) for at in order if sums.flat[at] > 0]
    return [(int(tops[row]), int(starts[column])) for row, column in found]
