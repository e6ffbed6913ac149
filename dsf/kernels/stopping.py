"""How far back rows have to be looked at, from what the rest can add to them at most."""

from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel
from dsf.kernels.tallying import DISTANCE, MASS, TILE


@kernel()
@no_type_check
def left_over(
    sizes: np.ndarray,
    reach: np.ndarray,
    gap: np.ndarray,
    mass: np.ndarray,
    lagged: np.ndarray,
    lag: int,
    heads: np.ndarray,
    tally: np.ndarray,
    share: float,
    tokens: float,
    left: np.ndarray,
) -> int:
    """Which heads have to go on: theirs come first in ``heads``. Returns how many they are.

    ``left`` becomes the largest share of its absolute weight that a row can have in the columns
    not looked at: size of the read x decays x faded sizes of all their writes.
    """
    count = 0
    for a in range(len(heads)):
        h, goes_on, worst = heads[a], False, 0.0
        for i in range(len(sizes)):
            scale = sizes[i] * reach[h, i] * gap[h]
            rest = scale * mass[h]
            moved = scale * lagged[h] + (lag + i) * rest
            seen = tally[MASS, h, i]
            if rest != 0:  # nan goes on, too
                away = moved + rest * tally[DISTANCE, h, i] / seen if seen > 0 else 0.0
                if not (rest <= share * seen and away <= tokens * seen):
                    goes_on = True
                worst = max(worst, rest / seen if seen > 0 else 1.0)
        left[h] = worst
        if goes_on:
            heads[count] = h
            count += 1
    return count


@kernel()
@no_type_check
def tiles_needed(
    sizes: np.ndarray,
    reach: np.ndarray,
    gap: np.ndarray,
    product: np.ndarray,
    mass: np.ndarray,
    lagged: np.ndarray,
    start: int,
    stop: int,
    most: int,
    heads: np.ndarray,
    tally: np.ndarray,
    share: float,
    tokens: float,
    needed: np.ndarray,
) -> None:
    """After how many of the tiles before ``stop`` each head may stop for certain, up to ``most``.

    Says so of the worst row and of what was seen so far: looking at more only lets it stop earlier.
    """
    rows = len(sizes)
    for a in range(len(heads)):
        h, worst, away = heads[a], 0.0, 0.0
        for i in range(rows):
            seen = tally[MASS, h, i]
            scale = sizes[i] * reach[h, i]
            if scale != 0:
                worst = max(worst, scale / seen)
                away = max(away, tally[DISTANCE, h, i] / seen)
        kept, tile = worst * gap[h], stop
        while tile > max(0, stop - most):
            tile -= 1
            kept *= product[h, tile]
            if tile == 0:
                break
            lag = start - tile * TILE + rows + away
            rest = kept * mass[h, tile - 1]
            if rest <= share and kept * lagged[h, tile - 1] + lag * rest <= tokens:
                break
        needed[a] = stop - tile
