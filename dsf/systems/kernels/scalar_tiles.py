"""Maps with one scalar decay a token, by tiles: rows, and reductions of rows.

An entry is ``score x reach x gap x factor``: ``reach`` is the product of decays from the row
(query) back to the start of its tile, ``gap`` that over the tiles between, and ``factor`` that from
the column (key) to the end of its tile. Decays are only multiplied, in float64, so decays of zero
or near zero lose no accuracy. For reductions the scores of the 64 rows of a tile are contiguous for
every column, so that the inner loops run over rows; ``parts`` are three planes of them: absolute
values, those times their logarithms, and absolute values of the negative scores.

``sum_entries`` reduces rows of any map that are in memory. Extremes are found among integers of the
same order: comparisons of numbers that may be nan would keep the loop from being vectorised.
"""

import math
from typing import NamedTuple

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    ahead,
    arrived,
    chosen,
    lanes,
    load,
    log_of,
    pointers,
    spread,
    store,
    stream,
)

TILE = 64


class Scratch(NamedTuple):
    line: np.ndarray  # the row, padded to whole tiles
    scale: np.ndarray  # decays between every earlier tile and the row
    gap: np.ndarray  # decays between every earlier tile and the tile of the row, in float64
    held: np.ndarray  # decays between every token of its own tile and the row, in float64


def scratch_of(like: np.ndarray, tiles: int) -> Scratch:
    line, scale = np.zeros(tiles * TILE, like.dtype), np.zeros(tiles, like.dtype)
    return Scratch(line, scale, np.zeros(tiles), np.zeros(TILE))


@kernel()
def suffixes(decay, step, factor, product):
    """Fill ``factor``, ``step`` times the decays after a token in its tile, and ``product``."""
    heads, steps = decay.shape
    for h in range(heads):
        for tile in range(product.shape[1]):
            running = 1.0
            for j in range(min(steps, (tile + 1) * TILE) - 1, tile * TILE - 1, -1):
                factor[h, j] = running * step[h, j]
                running *= decay[h, j]
            product[h, tile] = running


@kernel()
def far_tiles(score, gap, seen, scale, factor, tiles, line):
    """The part of a row before its own tile; ``seen`` is the decay from the tile's start to it."""
    lane = lanes(line)
    for tile in range(tiles):
        scale[tile] = gap[tile] * seen
        passed = spread(scale, tile)
        for j in range(tile * TILE, (tile + 1) * TILE, lane):
            store(line, j, load(score, j) * passed * load(factor, j))


@kernel()
def own_tile(score, held, count, line):
    """The part of a row in its own tile: ``count`` entries, then zeros."""
    for j in range(count):
        line[j] = score[j] * held[j]
    for j in range(count, TILE):
        line[j] = 0.0


@kernel()
def hold(held, at, decay, step):
    """Multiply the decays of all tokens of a tile by ``decay``, and start those of token ``at``."""
    for j in range(TILE):
        held[j] *= decay
    held[at] = step


@kernel()
def write_rows(
    score, decay, step, feedthrough, factor, product, tile, first, before, memory, place, top
):
    """Write rows from token ``first`` on, all in ``tile``, for every head."""
    scores, factors = pointers(score), pointers(factor)
    scratch, target = pointers(memory), pointers(place)
    (rows, stop), (heads, steps), start = score.shape, decay.shape, tile * TILE
    count = min(start + TILE, steps) if target.clean else steps
    memory.line[start:] = 0
    for h in range(heads):
        running = 1.0
        for earlier in range(tile - 1, -1, -1):
            scratch.gap[earlier] = running
            running *= product[h, earlier]
        running = 1.0
        for t in range(start, first + rows):
            kept = running * decay[h, t]
            if not before:
                hold(scratch.held, t - start, decay[h, t], step[h, t])
            if t >= first:
                row, line = ahead(scores, (t - first) * stop), scratch.line
                seen = running if before else kept
                weights = ahead(factors, h * steps)
                far_tiles(row, scratch.gap, seen, scratch.scale, weights, tile, line)
                own = ahead(row, start), scratch.held, t - start + (not before)
                own_tile(*own, ahead(line, start))
                line[t] += feedthrough[h, t]
                stream(line, count, target, (h * target.rows + top + t - first) * steps)
            if before:
                hold(scratch.held, t - start, decay[h, t], step[h, t])
            running = kept
    arrived()


MASS, NEGATIVE, ENERGY, SURPRISE, DISTANCE, LARGEST, LOWEST, NEAR = range(8)


@kernel()
def all_before(decay, weight, mass, lagged):
    """At the end of every tile: the decayed weights of all tokens so far, and those times lag."""
    for h in range(decay.shape[0]):
        total, moved = 0.0, 0.0
        for t in range(decay.shape[1]):
            moved = decay[h, t] * (moved + total)
            total = decay[h, t] * total + weight[h, t]
            if (t + 1) % TILE == 0:
                mass[h, t // TILE], lagged[h, t // TILE] = total, moved


@kernel()
def sum_tiles(parts, first, factors, heads, spans, decays, asked, statistics):
    """Add the tiles before ``stops`` that are in ``parts``, whose first tile is ``first``.

    For every head, tiles are added back to its entry of ``firsts`` or to the first tile of the
    parts. Returns the number of tiles that were added, over all heads.
    """
    (factor, logs, product), (firsts, stops) = factors, spans
    (reach, log_reach, gap), (start, widths, peaks) = decays, asked
    flat, plane, added = parts.reshape(-1), parts.shape[1], 0
    sums = np.empty(4 * TILE, parts.dtype)
    for h in heads:
        begin = max(first, firsts[h])
        while stops[h] > begin and gap[h] != 0:
            tile = stops[h] - 1
            column, at, lag = tile * TILE, (tile - first) * TILE * TILE, start - tile * TILE
            _sum_tile(flat, plane, at, factor[h], logs[h], column, sums)
            _add_sums(sums, lag - TILE + 1, reach[h], log_reach[h], gap[h], statistics[h])
            for w in range(len(widths)):
                if lag - TILE + 1 < widths[w]:
                    _sum_near(flat, at, factor[h], column, lag, widths[w], sums)
                    for i in range(TILE):
                        statistics[h, (NEAR + w) * TILE + i] += reach[h, i] * gap[h] * sums[i]
            if peaks:
                for j in range(TILE):
                    scale = factor[h, column + j] * gap[h]
                    add_peaks(flat, plane, at + j * TILE, scale, reach[h], statistics[h])
            gap[h] *= product[h, tile]
            stops[h] = tile
            added += 1
        stops[h] = min(stops[h], begin)
    return added


@kernel()
def _sum_tile(parts, plane, at, factor, logs, column, sums):
    """For every row: sums of absolute values, negative ones, those times log, and times lag."""
    if plane < 0 or at < 0 or column < 0:
        return
    number = factor.dtype.type
    sums[:] = 0
    for quad in range(TILE // 4):
        j, lag = column + 4 * quad, TILE - 1 - 4 * quad
        a, b, c, d = factor[j], factor[j + 1], factor[j + 2], factor[j + 3]
        la, lb, lc, ld = a * logs[j], b * logs[j + 1], c * logs[j + 2], d * logs[j + 3]
        ma, mb, mc = a * number(lag), b * number(lag - 1), c * number(lag - 2)
        md = d * number(lag - 3)
        o = at + quad * (4 * TILE)
        g, n = o + plane, o + 2 * plane
        for i in range(TILE):
            s, t, u = parts[o + i], parts[o + TILE + i], parts[o + 2 * TILE + i]
            v = parts[o + 3 * TILE + i]
            sums[i] += a * s + b * t + (c * u + d * v)
            sums[TILE + i] += (
                a * parts[n + i]
                + b * parts[n + TILE + i]
                + (c * parts[n + 2 * TILE + i] + d * parts[n + 3 * TILE + i])
            )
            sums[2 * TILE + i] += (
                a * parts[g + i]
                + b * parts[g + TILE + i]
                + (c * parts[g + 2 * TILE + i] + d * parts[g + 3 * TILE + i])
            ) + (la * s + lb * t + (lc * u + ld * v))
            sums[3 * TILE + i] += ma * s + mb * t + (mc * u + md * v)


@kernel()
def _add_sums(sums, lag, reach, log_reach, gap, statistics):
    """Scale the sums of a tile by the decays up to the rows."""
    log_gap = math.log(gap)
    for i in range(TILE):
        scale = reach[i] * gap
        size = scale * sums[i]
        statistics[MASS * TILE + i] += size
        statistics[NEGATIVE * TILE + i] += scale * sums[TILE + i]
        statistics[SURPRISE * TILE + i] += (
            scale * sums[2 * TILE + i] + (log_reach[i] + log_gap) * size
        )
        statistics[DISTANCE * TILE + i] += scale * sums[3 * TILE + i] + (lag + i) * size


@kernel()
def _sum_near(parts, at, factor, column, lag, width, sums):
    """Absolute values at lags below ``width``; ``lag`` is that of the first row and column."""
    if at < 0 or column < 0:
        return
    sums[:TILE] = 0
    for j in range(TILE):
        scale, o = factor[column + j], at + j * TILE
        for i in range(min(TILE, width - lag + j)):
            sums[i] += scale * parts[o + i]


@kernel()
def add_peaks(parts, plane, at, scale, reach, statistics):
    """Squares of the entries of a column, the largest absolute value and the smallest entry."""
    if plane < 0 or at < 0:
        return
    for i in range(TILE):
        entry = reach[i] * scale * parts[at + i]
        below = -reach[i] * scale * parts[2 * plane + at + i]
        largest, lowest = statistics[LARGEST * TILE + i], statistics[LOWEST * TILE + i]
        statistics[ENERGY * TILE + i] += entry * entry
        statistics[LARGEST * TILE + i] = chosen(entry <= largest, largest, entry)
        statistics[LOWEST * TILE + i] = chosen(below >= lowest, lowest, below)


@kernel()
def split_scores(scores, size, logged, negative):
    """Fill the three planes of ``parts``; the logarithm of a zero score is some finite number."""
    nothing = scores.dtype.type(0)
    for i in range(len(scores)):
        score = scores[i]
        found = abs(score)
        size[i] = found
        logged[i] = found * log_of(found)
        negative[i] = chosen(score > nothing, nothing, -score)


@kernel()
def still_open(sizes, reach, gap, earlier, spans, limits, found):
    """Move the heads that need earlier tiles to the front of ``heads``, and return their number.

    For every other head, ``left`` becomes a bound on the share of its absolute weight that a row
    can have in the columns left out: norm of the read x decays x decayed norms of all their writes.
    For a head that needs more, ``firsts`` becomes a tile, at most ``most`` tiles further back, at
    which it can stop for certain; it may turn out that it can stop earlier.
    """
    (product, mass, lagged), (start, stops, most) = earlier, spans
    (share, tokens), (statistics, heads, firsts, left) = limits, found
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
def _enough(product, mass, lagged, kept, away, start, stop, far, share, tokens):
    """The latest tile before which all columns may be left out, or ``far``."""
    for tile in range(stop - 1, far, -1):
        kept *= product[tile]
        rest = kept * mass[tile - 1]
        lag = start - tile * TILE + away
        if rest <= share and kept * lagged[tile - 1] + lag * rest <= tokens:
            return tile
    return far


LANES = 16  # rows that are processed together, as a fixed count for the compiler


@kernel()
def sum_own_tile(parts, coefficients, before, widths, peaks, found):
    """Add the rows of one diagonal tile to ``statistics``; fill the decays from its start."""
    decay, step, log_decay, log_step, feedthrough = coefficients
    statistics, reach, log_reach = found
    heads, rows = decay.shape
    flat, plane = parts.reshape(-1), parts.shape[1]
    diagonal = np.zeros(TILE)
    running = np.empty(2 * TILE)  # decays from a column to the rows, and their logarithms
    for h in range(heads):
        passed, log_passed = 1.0, 0.0
        for i in range(rows):
            if before:
                reach[h, i], log_reach[h, i] = passed, log_passed
            passed, log_passed = passed * decay[h, i], log_passed + log_decay[h, i]
            if not before:
                reach[h, i], log_reach[h, i] = passed, log_passed
        running[:] = 0
        for j in range(rows - 1, -1, -1):
            if j + 1 < rows:
                fade, log_fade = np.float64(decay[h, j + 1]), np.float64(log_decay[h, j + 1])
                _fade(running, j + 2, fade, log_fade)
                running[j + 1] = 1.0 if before else fade
                running[TILE + j + 1] = 0.0 if before else log_fade
            write, log = np.float64(step[h, j]), np.float64(log_step[h, j])
            _add_column(flat, plane, j, write, log, running, statistics[h])
            if peaks:
                add_peaks(flat, plane, j * TILE, write, running, statistics[h])
            for w in range(len(widths)):
                if widths[w] < TILE:
                    for i in range(j + 1, min(rows, j + widths[w])):
                        close = flat[j * TILE + i] * (running[i] * write)
                        statistics[h, (NEAR + w) * TILE + i] += close
            score = flat[j * TILE + j] - 2 * flat[2 * plane + j * TILE + j]
            diagonal[j] = feedthrough[h, j] + (0.0 if before else score * write)
        _add_diagonal(diagonal, widths, statistics[h])


@kernel()
def _fade(running, row, fade, log_fade):
    """Multiply the decays of the rows from about ``row`` on; rows before it are set later."""
    for block in range(row // LANES, TILE // LANES):
        o = block * LANES
        for i in range(LANES):
            running[o + i] *= fade
            running[TILE + o + i] += log_fade


@kernel()
def _add_column(parts, plane, column, write, log, running, statistics):
    """Add the entries of a column below the diagonal; ``running`` is zero on and above it."""
    if plane < 0 or column < 0:
        return
    for block in range((column + 1) // LANES, TILE // LANES):
        o = block * LANES
        at, shift = column * TILE + o, o - column
        for i in range(LANES):
            scale = running[o + i] * write
            entry = parts[at + i] * scale
            logged = parts[plane + at + i] * scale + entry * (running[TILE + o + i] + log)
            statistics[MASS * TILE + o + i] += entry
            statistics[NEGATIVE * TILE + o + i] += parts[2 * plane + at + i] * scale
            statistics[SURPRISE * TILE + o + i] += logged
            statistics[DISTANCE * TILE + o + i] += entry * (shift + i)


@kernel()
def _add_diagonal(diagonal, widths, statistics):
    for i in range(TILE):
        entry = diagonal[i]
        size, below = abs(entry), chosen(entry > 0, 0.0, -entry)
        largest, lowest = statistics[LARGEST * TILE + i], statistics[LOWEST * TILE + i]
        statistics[MASS * TILE + i] += size
        statistics[NEGATIVE * TILE + i] += below
        statistics[ENERGY * TILE + i] += size * size
        statistics[SURPRISE * TILE + i] += size * log_of(size)
        statistics[LARGEST * TILE + i] = chosen(size <= largest, largest, size)
        statistics[LOWEST * TILE + i] = chosen(entry >= lowest, lowest, entry)
    for w in range(len(widths)):
        near = (NEAR + w) * TILE
        for i in range(TILE):
            if widths[w] < TILE:
                statistics[near + i] += abs(diagonal[i])
            else:
                statistics[near + i] = statistics[MASS * TILE + i]


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
