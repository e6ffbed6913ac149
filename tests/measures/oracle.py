"""Every measure of a map or a system, in plain loops over numbers of 50 digits.

Written from the definitions; shares no code with the library: it takes lists of numbers and
returns lists of numbers. A map is a list of rows, with the token of every row and of every column
beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
from mpmath import mpf

mpmath.mp.dps = 50
NAN = mpmath.nan
WIDTH, THRESHOLD, HALF = 3, mpf("0.3"), mpf("0.5")


@dataclass(frozen=True)
class Map:
    """Entries, and which token each row writes and each column reads."""

    rows: list[list[Any]]
    written: list[int]
    read: list[int]

    @property
    def tokens(self) -> int:
        return max(self.written) + 1

    def lag(self, i: int, j: int) -> int:
        return self.written[i] - self.read[j]


# --- maps from coefficients ------------------------------------------------------------------


def matrix(rows: Any) -> mpmath.matrix:
    return mpmath.matrix([[mpmath.mpmathify(v) for v in row] for row in rows])


def diagonal_plus_low_rank(decay: Any, left: Any, right: Any) -> list[list[Any]]:
    """diag(decay) + left rightᵀ."""
    found = mpmath.diag([mpmath.mpmathify(v) for v in decay]) + matrix(left) * matrix(right).T
    return found.tolist()


def followed(coefficients: dict[str, Any]) -> Map:
    """The map of ``h_t = A_t h_{t-1} + B_t u_t``, ``y_t = C_t h_t + D_t u_t``, column by column."""
    A, B, C, D = ([matrix(part) for part in coefficients[name]] for name in "ABCD")
    steps, inputs, outputs = len(A), B[0].cols, C[0].rows
    order = list(range(steps))
    if coefficients["backward"]:
        order.reverse()
    rows = [[mpf(0)] * (steps * inputs) for _ in range(steps * outputs)]
    for source in range(steps):
        for port in range(inputs):
            state = mpmath.zeros(A[0].rows, 1)
            for t in order:
                before, state = state, A[t] * state
                if t == source:
                    state = state + B[t][:, port]
                response = C[t] * (before if coefficients["before"] else state)
                for out in range(outputs):
                    value = response[out] + (D[t][out, port] if t == source else 0)
                    value = mpmath.re(value) if coefficients["real"] else value
                    rows[t * outputs + out][source * inputs + port] = value
    written = [t for t in range(steps) for _ in range(outputs)]
    return Map(rows, written, [t for t in range(steps) for _ in range(inputs)])


def softmax(query: Any, key: Any, scale: float, *, causal: bool) -> Map:
    """Softmax attention without anything else."""
    query, key = matrix(query), matrix(key)
    rows = []
    for i in range(query.rows):
        scores = [mpf(scale) * (query[i, :] * key[j, :].T)[0] for j in range(key.rows)]
        weights = [mpmath.exp(s) if j <= i or not causal else mpf(0) for j, s in enumerate(scores)]
        rows.append([w / mpmath.fsum(weights) for w in weights])
    return Map(rows, list(range(query.rows)), list(range(key.rows)))


def added(first: Map, second: Map) -> Map:
    pairs = zip(first.rows, second.rows, strict=True)
    rows = [[a + b for a, b in zip(x, y, strict=True)] for x, y in pairs]
    return Map(rows, first.written, first.read)


def stored(rows: Any) -> Map:
    entries = [[mpmath.mpmathify(v) for v in row] for row in rows]
    return Map(entries, list(range(len(rows))), list(range(len(rows[0]))))


# --- what measures are made of ---------------------------------------------------------------


def broken(values: Sequence[Any]) -> bool:
    return any(mpmath.isnan(v) for v in values)


def top(values: Sequence[Any]) -> Any:
    return NAN if broken(values) else max(values)


def low(values: Sequence[Any]) -> Any:
    return NAN if broken(values) else min(values)


def total(values: Sequence[Any]) -> Any:
    return NAN if broken(values) else mpmath.fsum(values)


def size(values: Sequence[Any]) -> Any:
    return total([abs(v) for v in values])


def length(values: Sequence[Any]) -> Any:
    return mpmath.sqrt(total([abs(v) ** 2 for v in values]))


def over(above: Any, below: Any) -> Any:
    return NAN if below == 0 or mpmath.isnan(below) else above / below


def columns(map: Map) -> list[list[Any]]:
    return [list(column) for column in zip(*map.rows, strict=True)]


def everything(map: Map) -> list[Any]:
    return [v for row in map.rows for v in row]


def causal(map: Map) -> bool:
    return all(
        row[j] == 0 for i, row in enumerate(map.rows) for j in range(len(row)) if map.lag(i, j) < 0
    )


def reach(map: Map, i: int) -> list[int]:
    """The columns that a row may read: up to its own token in a causal map, else all."""
    return [j for j in range(len(map.read)) if not causal(map) or map.lag(i, j) >= 0]


def entropy(values: Sequence[Any]) -> Any:
    whole = size(values)
    if mpmath.isnan(whole) or whole == 0:
        return NAN
    shares = [abs(v) / whole for v in values]
    return -mpmath.fsum(p * mpmath.log(p) for p in shares if p > 0)


def singular(rows: list[list[Any]]) -> list[Any]:
    """Singular values, largest first."""
    most = top([abs(v) for row in rows for v in row])
    if most == 0 or mpmath.isnan(most):
        return [most] * min(len(rows), len(rows[0]))
    scaled = mpmath.matrix([[v / most for v in row] for row in rows])
    gram = scaled.H * scaled if scaled.rows >= scaled.cols else scaled * scaled.H
    squares = mpmath.eighe(gram, eigvals_only=True)
    return sorted((mpmath.sqrt(max(mpmath.re(v), mpf(0))) * most for v in squares), reverse=True)


def per_row(measure: Callable[[Map, int, list[Any]], Any]) -> Callable[[Map], list[Any]]:
    return lambda m: [measure(m, i, row) for i, row in enumerate(m.rows)]


# --- measures of maps ------------------------------------------------------------------------


def share_of(chosen: Callable[[Map, int, int], bool], *, net: bool = False) -> Callable[[Map], Any]:
    """Mean over rows with a chosen column of the share of the row's weight on these."""

    def measure(map: Map) -> Any:
        found = []
        for i, row in enumerate(map.rows):
            on = [v for j, v in enumerate(row) if chosen(map, i, j)]
            if on and size(row) != 0:
                found.append(over(total(on) if net else size(on), size(row)))
        return over(total(found), mpf(len(found)))

    return measure


def mass_by_lag(map: Map) -> list[Any]:
    by_lag: list[list[Any]] = [[] for _ in range(map.tokens)]
    for i, row in enumerate(map.rows):
        for j, v in enumerate(row):
            if map.lag(i, j) >= 0:
                by_lag[map.lag(i, j)].append(abs(v))
    return [over(total(part), mpf(len(part))) for part in by_lag]


def half_life(map: Map, half: Any = HALF) -> Any:
    mass = mass_by_lag(map)
    whole = total(mass)
    if mpmath.isnan(whole) or whole == 0:
        return mpf(-1)
    return mpf(sum(mpmath.fsum(mass[: lag + 1]) / whole < half for lag in range(len(mass))))


def sink_mass(map: Map) -> Any:
    later = [row for i, row in enumerate(map.rows) if map.written[i] > 0]
    on = [v for row in later for j, v in enumerate(row) if map.read[j] == 0]
    return over(size(on), size([v for row in later for v in row]))


def sink_rate(map: Map) -> Any:
    mass = sink_mass(map)
    return mass if mpmath.isnan(mass) else mpf(mass > THRESHOLD)


def negative(values: Sequence[Any]) -> Any:
    return total([-v if v < 0 else v * 0 for v in values])


def negative_entries(map: Map) -> Any:
    if broken(everything(map)):
        return NAN
    count = sum(v < 0 for v in everything(map))
    return mpf(count) / sum(len(reach(map, i)) for i in range(len(map.rows)))


def uniformity_gap(map: Map, i: int, row: list[Any]) -> Any:
    chosen = reach(map, i)
    return length([v - (mpf(1) / len(chosen) if j in chosen else 0) for j, v in enumerate(row)])


def uniform_share(map: Map, i: int, row: list[Any]) -> Any:
    return over(abs(total(row)) ** 2, len(reach(map, i)) * total([abs(v) ** 2 for v in row]))


def convexity_defect(_map: Map, _i: int, row: list[Any]) -> Any:
    return negative(row) + abs(total([v if v > 0 else v * 0 for v in row]) - 1)


def effective_rank(map: Map) -> Any:
    values = singular(map.rows)
    return mpmath.exp(entropy(values)) if values[0] else NAN


def mean_distance(map: Map, i: int, row: list[Any]) -> Any:
    return over(size([v * map.lag(i, j) for j, v in enumerate(row)]), size(row))


def window_mass(map: Map, i: int, row: list[Any]) -> Any:
    near = [v for j, v in enumerate(row) if 0 <= map.lag(i, j) < WIDTH]
    return over(size(near), size(row))


def off_diagonal_energy(map: Map) -> Any:
    return total(
        [abs(v) ** 2 for i, row in enumerate(map.rows) for j, v in enumerate(row) if map.lag(i, j)]
    )


def largest_ahead(map: Map) -> Any:
    places = ((i, j) for i in range(len(map.rows)) for j in range(len(map.read)))
    ahead = [abs(map.rows[i][j]) for i, j in places if map.lag(i, j) < 0]
    return top([mpf(0), *ahead])


def copying(effects: Sequence[float]) -> Callable[[Map], Any]:
    def measure(map: Map) -> Any:
        parts = [v * mpf(effects[map.read[j]]) for row in map.rows for j, v in enumerate(row)]
        return over(total(parts), size(parts))

    return measure


def token_scores(tokens: Sequence[int]) -> dict[str, Callable[[Map], Any]]:
    """Scores that look at which tokens are the same."""

    def copy(map: Map, i: int, j: int) -> bool:
        return map.lag(i, j) > 0 and tokens[map.written[i]] == tokens[map.read[j]]

    def follower(map: Map, i: int, j: int) -> bool:
        before = map.read[j] - 1
        return map.lag(i, j) > 0 and before >= 0 and tokens[before] == tokens[map.written[i]]

    return {"duplicate_token": share_of(copy), "induction": share_of(follower)}


def row_sum_spread(map: Map) -> Any:
    sums = [total(row) for row in map.rows]
    return top(sums) - low(sums)


ANY: dict[str, Callable[[Map], Any]] = {
    "row_sums": per_row(lambda _m, _i, row: total(row)),
    "column_sums": lambda m: [total(column) for column in columns(m)],
    "row_norms": per_row(lambda _m, _i, row: length(row)),
    "column_norms": lambda m: [length(column) for column in columns(m)],
    "absolute_gain": lambda m: top([size(row) for row in m.rows]),
    "energy_gain": lambda m: singular(m.rows)[0],
    "effective_rank": effective_rank,
    "largest_ahead": largest_ahead,
    "window_mass": per_row(window_mass),
    "mean_distance": per_row(mean_distance),
    "mass_by_lag": mass_by_lag,
    "half_life": half_life,
    "row_entropy": per_row(lambda _m, _i, row: entropy(row)),
    "effective_tokens": per_row(lambda _m, _i, row: mpmath.exp(entropy(row))),
    "uniformity_gap": per_row(uniformity_gap),
    "uniform_share": per_row(uniform_share),
    "sink_mass": sink_mass,
    "sink_rate": sink_rate,
    "off_diagonal_energy": off_diagonal_energy,
}
REAL: dict[str, Callable[[Map], Any]] = {
    "row_sum_spread": row_sum_spread,
    "negative_mass": lambda m: negative(everything(m)),
    "negative_share": lambda m: over(negative(everything(m)), size(everything(m))),
    "negative_entries": negative_entries,
    "smallest_entry": lambda m: low(everything(m)),
    "convexity_defect": per_row(convexity_defect),
    "previous_token": share_of(lambda m, i, j: m.lag(i, j) == 1),
    "first_token": share_of(lambda m, i, j: m.read[j] == 0 and m.lag(i, j) > 0),
    "self_token": share_of(lambda m, i, j: m.lag(i, j) == 0, net=True),
}


def hankel(map: Map) -> list[list[Any]]:
    """Singular values of the blocks after every token but the last."""
    found = []
    for t in range(map.tokens - 1):
        block = [
            [v for j, v in enumerate(row) if map.read[j] <= t]
            for i, row in enumerate(map.rows)
            if map.written[i] > t
        ]
        found.append(singular(block))
    wide = max(len(values) for values in found)
    return [values + [mpf(0)] * (wide - len(values)) for values in found]


def hankel_ranks(map: Map, tolerance: Any) -> list[Any]:
    """How many values of every block lie above a part of the largest of all."""
    values = hankel(map)
    largest = top([v for row in values for v in row])
    return [mpf(sum(v > tolerance * largest for v in row)) for row in values]


def states_needed(map: Map, error: Any) -> Any:
    """The smallest order whose dropped values are at most a part of the map, in every block."""
    values, size = hankel(map), length(everything(map))
    for order in range(len(values[0]) + 1):
        dropped = [v for row in values for v in row[order:]]
        if length(dropped) <= error * size:
            return mpf(order)
    return NAN  # of a map with NaN


def largest_difference(first: Map, second: Map) -> Any:
    return top([abs(a - b) for a, b in zip(everything(first), everything(second), strict=True)])


def neighbourhood_mass(map: Map, i: int, row: list[Any]) -> Any:
    """On a grid of one row: the token itself, the one before it and the one after it."""
    near = [abs(v) for j, v in enumerate(row) if abs(map.lag(i, j)) <= 1]
    return over(total(near), total([abs(v) for v in row]))


def window_sums(map: Map) -> list[Any]:
    return [
        total([v for j, v in enumerate(row) if 0 <= map.lag(i, j) < WIDTH])
        for i, row in enumerate(map.rows)
    ]


def distance(first: Map, second: Map) -> Any:
    apart = [a - b for a, b in zip(everything(first), everything(second), strict=True)]
    return over(length(apart), length(everything(first)))


# --- measures of systems ---------------------------------------------------------------------


def products(coefficients: dict[str, Any]) -> list[mpmath.matrix]:
    """A_t ... A_1 in the direction of the recurrence."""
    A = [matrix(part) for part in coefficients["A"]]
    if coefficients["backward"]:
        A.reverse()
    found = [A[0]]
    for part in A[1:]:
        found.append(part * found[-1])
    return found


def in_tokens(found: list[Any], coefficients: dict[str, Any]) -> list[Any]:
    return found[::-1] if coefficients["backward"] else found


def product_norms(coefficients: dict[str, Any]) -> list[Any]:
    norms = [singular(part.tolist())[0] for part in products(coefficients)]
    return in_tokens(norms, coefficients)


def memory_horizon(coefficients: dict[str, Any], level: Any = HALF) -> Any:
    norms = [singular(part.tolist())[0] for part in products(coefficients)]
    return mpf(next((t + 1 for t, norm in enumerate(norms) if norm <= level), len(norms) + 1))


def gramians(coefficients: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Controllability and observability by sums over single signals and single responses."""
    order = list(range(len(coefficients["A"])))
    if coefficients["backward"]:
        order.reverse()
    A, B, C = ([matrix(coefficients[name][t]) for t in order] for name in "ABC")
    reached, seen = [], []
    for t in range(len(order)):
        P = mpmath.zeros(A[0].rows)
        for source in range(t + 1):
            state = B[source]
            for k in range(source + 1, t + 1):
                state = A[k] * state
            P = P + state * state.H
        Q = mpmath.zeros(A[0].rows)
        carried = mpmath.eye(A[0].rows)
        for k in range(t + 1, len(order)):
            before, carried = carried, A[k] * carried
            read = C[k] * (before if coefficients["before"] else carried)
            Q = Q + read.H * read
        reached.append(P.tolist())
        seen.append(Q.tolist())
    return in_tokens(reached, coefficients), in_tokens(seen, coefficients)
