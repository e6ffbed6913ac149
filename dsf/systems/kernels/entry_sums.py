"""Row reductions of map rows in memory, or of softmax rows from their scores, all in one pass.

Extremes are found among numbers as integers of the same order. Comparisons of floating-point
numbers must not be reordered, since one of them may be nan: a loop that keeps the largest is not
vectorised, nor is anything else in it. With integers all of it is.
"""

import math

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponentials import chosen, log_of, two_to
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
    ``entry kind row``: the first kinds of :mod:`dsf.systems.kernels.scalar_tile_sums`,
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
                _add_sizes(
                    row[:behind], 1.0, by_lag[e, room - 1 - token : room - 1 - token + behind]
                )


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


@kernel()
def _add_sizes(part, scale, sums):
    for j in range(len(part)):
        sums[j] += abs(np.float64(part[j])) * scale


LOG_TWO = math.log(2)
LEAST = -2000.0  # base-2 logarithm relative to the peak that underflows in every number type


@kernel(reorders=True)
def sum_exponentials(
    scores, peak, unread, ahead, first, causal, whole, widths, tokens, statistics, by_lag
):
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
        mass, energy, surprise, distance = 0.0, 0.0, 0.0, 0.0
        for start in range(0, reach, BLOCK):
            part = scores[i, start : min(reach, start + BLOCK)]
            a, c, d, e = zero, zero, zero, zero
            lag = number(token - start)
            for j in range(len(part)):
                below = (part[j] - top) * to_two
                below = chosen(below < least, least, below)
                weight = two_to(below)
                part[j] = weight
                a += weight
                c += weight * weight
                d += weight * below
                e += weight * abs(lag - ahead[j])
            mass, energy = mass + a, energy + c
            surprise, distance = surprise + d, distance + e
        total = mass + math.exp(unread - top)
        statistics[MASS, i] = mass / total
        statistics[NEGATIVE, i] = 0.0 / total
        statistics[ENERGY, i] = energy / total**2
        statistics[SURPRISE, i] = (surprise * LOG_TWO - math.log(total) * mass) / total
        statistics[DISTANCE, i] = distance / total
        statistics[LARGEST, i] = math.exp(peak[i] - top) / total
        statistics[LOWEST, i] = 0.0 if reach < whole else _lowest(scores[i]) / total
        for w in range(len(widths)):
            part = scores[i, max(0, token + 1 - widths[w]) : min(reach, token + 1)]
            statistics[NEAR + w, i] = _mass(part) / total
        for t in range(len(tokens)):
            weight = scores[i, tokens[t]] if 0 <= tokens[t] < reach else zero
            statistics[NEAR + len(widths) + t, i] = weight / total
        if len(by_lag) > 0:
            behind = min(reach, token + 1)
            first_lag = len(by_lag) - 1 - token
            _add_sizes(scores[i, :behind], 1 / total, by_lag[first_lag : first_lag + behind])


@kernel()
def _lowest(row):
    found = row[0]
    for entry in row:
        if not entry >= found:
            found = entry
    return found
