"""Row reductions of map rows in memory, all in one pass.

Extremes are found among numbers as integers of the same order. Comparisons of floating-point
numbers must not be reordered, since one of them may be nan: a loop that keeps the largest is not
vectorised, nor is anything else in it. With integers all of it is.
"""

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import chosen, log_of
from dsf.systems.kernels.scalar_tiles import (
    DISTANCE,
    ENERGY,
    LARGEST,
    LOWEST,
    MASS,
    NEAR,
    NEGATIVE,
    SURPRISE,
)

SUM, AHEAD = NEAR, NEAR + 1
WIDTHS = NEAR + 2
BLOCK = 512  # columns that are summed apart, with lags counted from the first of them


SIGN, REST = np.int64(63), np.int64(2**63 - 1)
OF_ZERO, OF_INFINITY = np.int64(0), np.int64(0x7FF << 52)


@kernel(inlined=True)
def order_of(x):
    """An integer, larger for larger numbers; of -0.0 below that of 0.0, of nan beyond all."""
    bits = np.float64(x).view(np.int64)
    return bits ^ ((bits >> SIGN) & REST)


@kernel(inlined=True)
def number_of(order):
    """The number of this order; 0.0 of both zeros."""
    return np.int64(order ^ ((order >> SIGN) & REST)).view(np.float64) + 0.0


@kernel(reorders=True)
def sum_entries(weights, lags, first, widths, tokens, statistics, by_lag):
    """All sums of the rows from token ``first`` on, and sums of absolute weights by lag.

    ``weights`` is ``entry row column`` and ``lags`` is ``0 ... BLOCK - 1``. ``statistics`` is
    ``entry kind row``: the first kinds of :mod:`dsf.systems.kernels.scalar_tiles`,
    the signed sum, the largest absolute weight on a later token, then one for each of
    ``widths`` and of ``tokens``.
    ``by_lag``, which is added to, is ``entry lag`` with the lags backwards, the last number that of
    lag zero; or it has no lags, and these are not summed.
    """
    entries, rows, columns = weights.shape
    room = by_lag.shape[1]
    for e in range(entries):
        for i in range(rows):
            token = first + i
            behind = min(columns, token + 1)
            row, found = weights[e, i], statistics[e]
            ahead, is_causal = _ahead(row, behind)
            reach = behind if is_causal else columns
            mass, total, energy, surprise, distance = 0.0, 0.0, 0.0, 0.0, 0.0
            negative = 0.0
            largest, lowest = OF_ZERO, OF_INFINITY
            for start in range(0, reach, BLOCK):
                part = row[start : min(reach, start + BLOCK)]
                away = np.float64(token - start)
                a, b, c, d, f, g = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                for j in range(len(part)):
                    x = np.float64(part[j])
                    size = abs(x)
                    a += size
                    b += x
                    g -= chosen(x < 0.0, x, 0.0)
                    c += size * size
                    d += size * log_of(size)
                    f += size * abs(away - lags[j])
                    largest = chosen(order_of(size) > largest, order_of(size), largest)
                    lowest = chosen(order_of(x) < lowest, order_of(x), lowest)
                mass, total, energy = mass + a, total + b, energy + c
                surprise, distance, negative = surprise + d, distance + f, negative + g
            broken = np.isnan(mass)
            found[MASS, i] = mass
            found[NEGATIVE, i] = np.nan if broken else negative
            found[ENERGY, i] = energy
            found[SURPRISE, i] = np.inf if mass == np.inf else surprise
            found[DISTANCE, i] = distance
            found[LARGEST, i] = np.nan if broken else number_of(largest)
            lowest = min(lowest, OF_ZERO) if reach < columns else lowest
            found[LOWEST, i] = np.nan if broken else number_of(lowest)
            found[SUM, i] = total
            found[AHEAD, i] = ahead
            for w in range(len(widths)):
                found[WIDTHS + w, i] = _mass(row[max(0, token + 1 - widths[w]) : behind])
            for t in range(len(tokens)):
                inside = 0 <= tokens[t] < columns
                found[WIDTHS + len(widths) + t, i] = abs(row[tokens[t]]) if inside else 0.0
            if room > 0:
                sums = by_lag[e, room - 1 - token :]
                for j in range(behind):
                    sums[j] += abs(np.float64(row[j]))


@kernel(reorders=True)
def _ahead(row, behind):
    """The largest absolute weight on a later token, and whether all of these are zero."""
    largest, filled, total = OF_ZERO, 0, 0.0
    for j in range(behind, len(row)):
        size = abs(np.float64(row[j]))
        largest = chosen(order_of(size) > largest, order_of(size), largest)
        filled += chosen(size == 0.0, 0, 1)
        total += size
    return np.nan if np.isnan(total) else number_of(largest), filled == 0


@kernel(reorders=True)
def _mass(part):
    total = 0.0
    for j in range(len(part)):
        total += abs(np.float64(part[j]))
    return total
