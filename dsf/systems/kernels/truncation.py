"""Truncation of rows: how many earlier tiles are needed, from bounds on all tiles before them."""

from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.scalar_tile_sums import DISTANCE, MASS, TILE


@kernel()
@no_type_check
def still_open(
    sizes: np.ndarray,
    reach: np.ndarray,
    gap: np.ndarray,
    product: np.ndarray,
    mass: np.ndarray,
    lagged: np.ndarray,
    start: int,
    stops: np.ndarray,
    most: int,
    share: float,
    tokens: float,
    statistics: np.ndarray,
    heads: np.ndarray,
    firsts: np.ndarray,
    left: np.ndarray,
) -> int:
    """Move the heads that need earlier tiles to the front of ``heads``, and return their number.

    For every other head, ``left`` becomes a bound on the share of its absolute weight that a row
    can have in the columns left out: norm of the read x decays x decayed norms of all their writes.
    For a head that needs more, ``firsts`` becomes a tile, at most ``most`` tiles further back, at
    which it can stop for certain; it may turn out that it can stop earlier.
    """
    count = 0
    for a in range(len(heads)):
        h = heads[a]
        stop = stops[h]
        if stop == 0:
            left[h] = 0.0
            continue
        lag = start - stop * TILE + 1
        goes_on, worst, closest, away = False, 0.0, 0.0, 0.0
        for i in range(len(sizes)):
            scale = sizes[i] * reach[h, i] * gap[h]
            rest = scale * mass[h, stop - 1]
            moved = scale * lagged[h, stop - 1] + (lag + i) * rest
            seen = statistics[h, MASS * TILE + i]
            if rest != 0:  # also true for nan, which needs more tiles
                distance = statistics[h, DISTANCE * TILE + i] / seen if seen > 0 else 0.0
                if not (rest <= share * seen and moved + rest * distance <= tokens * seen):
                    goes_on = True
                worst = max(worst, rest / seen if seen > 0 else 1.0)
                closest, away = max(closest, scale / seen), max(away, distance)
        left[h] = 0.0 if goes_on else worst
        if goes_on:
            far = max(0, stop - most)
            size = len(sizes) + away
            firsts[h] = _enough(
                product[h], mass[h], lagged[h], closest, size, start, stop, far, share, tokens
            )
            heads[count] = h
            count += 1
    return count


@kernel()
@no_type_check
def _enough(product, mass, lagged, kept, away, start, stop, far, share, tokens):
    """The latest tile before which all columns may be left out, or ``far``."""
    for tile in range(stop - 1, far, -1):
        kept *= product[tile]
        rest = kept * mass[tile - 1]
        lag = start - tile * TILE + away
        if rest <= share and kept * lagged[tile - 1] + lag * rest <= tokens:
            return tile
    return far
