"""Windows of a long map whose weights a page keeps as they are, in float32.

A map without pooling has one byte for a cell. The windows with the most weight away from the
diagonal and the first key are kept beside it exactly, within a number of bytes.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from dsf.report.map_bytes import packed

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
