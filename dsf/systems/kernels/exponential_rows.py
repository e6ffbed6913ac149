"""Reductions of softmax rows, computed from the scores while a row is in the cache."""

import math
from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import chosen, two_to
from dsf.systems.kernels.scalar_tile_sums import (
    DISTANCE,
    ENERGY,
    LARGEST,
    LOWEST,
    MASS,
    NEAR,
    NEGATIVE,
    SURPRISE,
)

BLOCK = 512  # columns summed in the precision of the scores; blocks are added in double precision
LOG_TWO = math.log(2)
LEAST = -2000.0  # base-2 logarithm relative to the peak that underflows in every number type


@kernel(reorders=True)
@no_type_check
def sum_exponentials(
    scores: np.ndarray,
    peak: np.ndarray,
    unread: float,
    ahead: np.ndarray,
    first: int,
    causal: bool,
    whole: int,
    widths: np.ndarray,
    tokens: np.ndarray,
    statistics: np.ndarray,
    by_lag: np.ndarray,
) -> None:
    """All sums of the rows from token ``first`` on; ``scores``, in nats, are overwritten.

    ``peak`` is the largest score of a row and ``unread`` the logarithm of a term in the denominator
    that belongs to no key. ``whole`` is the number of columns of the map, ``ahead`` is
    ``0 ... BLOCK - 1``. ``statistics`` is ``kind row``: the kinds of
    :mod:`dsf.systems.kernels.scalar_tile_sums`, then one for each of ``widths`` and of ``tokens``.
    To ``by_lag`` the weights are added by their lags, backwards: the last number is that of lag
    zero; if it is empty, they are not.
    """
    number = scores.dtype.type
    zero, least, to_two = number(0), number(LEAST), number(1 / LOG_TWO)
    rows, columns = scores.shape
    for i in range(rows):
        token = first + i
        top = number(unread) if peak[i] < unread else peak[i]
        if top == -np.inf:
            statistics[:, i] = 0
            continue
        reach = min(columns, token + 1) if causal else columns
        mass, negative, energy, surprise, distance = 0.0, 0.0, 0.0, 0.0, 0.0
        for start in range(0, reach, BLOCK):
            part = scores[i, start : min(reach, start + BLOCK)]
            a, b, c, d, e = zero, zero, zero, zero, zero
            lag = number(token - start)
            for j in range(len(part)):
                below = (part[j] - top) * to_two
                below = chosen(below < least, least, below)
                weight = two_to(below)
                part[j] = weight
                a += weight
                b -= chosen(weight < zero, weight, zero)
                c += weight * weight
                d += weight * below
                e += weight * abs(lag - ahead[j])
            mass, negative, energy = mass + a, negative + b, energy + c
            surprise, distance = surprise + d, distance + e
        total = mass + math.exp(unread - top)
        statistics[MASS, i] = mass / total
        statistics[NEGATIVE, i] = negative / total
        statistics[ENERGY, i] = energy / total**2
        statistics[SURPRISE, i] = (surprise * LOG_TWO - math.log(total) * mass) / total
        statistics[DISTANCE, i] = distance / total
        statistics[LARGEST, i] = math.exp(peak[i] - top) / total
        statistics[LOWEST, i] = 0.0 if reach < whole else _lowest(scores[i]) / total
        for w in range(len(widths)):
            near = 0.0
            part = scores[i, max(0, token + 1 - widths[w]) : min(reach, token + 1)]
            for j in range(len(part)):
                near += part[j]
            statistics[NEAR + w, i] = near / total
        for t in range(len(tokens)):
            weight = scores[i, tokens[t]] if 0 <= tokens[t] < reach else zero
            statistics[NEAR + len(widths) + t, i] = weight / total
        if len(by_lag) > 0:
            behind = min(reach, token + 1)
            first_lag = len(by_lag) - 1 - token
            _add_scaled(scores[i, :behind], total, by_lag[first_lag : first_lag + behind])


@kernel()
@no_type_check
def _add_scaled(part, total, sums):
    scale = 1 / total
    for j in range(len(part)):
        sums[j] += part[j] * scale


@kernel()
@no_type_check
def _lowest(row):
    found = row[0]
    for entry in row:
        if not entry >= found:
            found = entry
    return found
