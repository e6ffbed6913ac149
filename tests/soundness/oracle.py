"""Whether the sentence of a certificate is true, from its words and the stored numbers alone.

Nothing of the library and of its checkers is used: the words are taken apart by patterns, the
tensors are read by safetensors, and everything is computed in mpmath or in fractions.
"""

import re
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import flint
import mpmath
import torch
from safetensors.torch import load_file

DIGITS = 60
SLACK = mpmath.mpf(10) ** -30
NUMBER = r"(-?[0-9.e+-]+(?:/[0-9]+)?|-?inf)"


def holds(content: dict[str, Any], folder: Path) -> bool:
    """Whether the sentence is true; for a refutation: whether it is not false at the witness."""
    arrays = {}
    for entry in content["subject"]:
        stored = load_file(str(folder / entry["file"]))[entry["tensor"]]
        assert list(stored.shape) == entry["shape"]
        arrays[entry["role"]] = stored.double()
    name, sentence = content["claim"]["name"], content["claim"]["sentence"]
    with mpmath.workdps(DIGITS):
        return bool(JUDGES[name](sentence, arrays, content))


def read(text: str) -> Fraction:
    """A number as a reader of the sentence takes it: a float64 or a fraction."""
    return Fraction(text) if "/" in text else Fraction(float(text))


def said(pattern: str, sentence: str) -> list[Fraction]:
    found = re.fullmatch(pattern.replace("#", NUMBER), sentence)
    assert found is not None, sentence
    return [read(part) for part in found.groups()]


def high(value: Any) -> Any:
    value = Fraction(value)
    return mpmath.mpf(value.numerator) / value.denominator


def rows_of(map) -> list[list[Fraction]]:
    return [[Fraction(v) for v in row] for row in map.flatten(0, -2).tolist()]


def nonnegative(sentence, arrays, _content):
    assert sentence == "no weight is below zero"
    return all(value >= 0 for row in rows_of(arrays["map"]) for value in row)


def causal(sentence, arrays, _content):
    assert sentence == "every weight above the diagonal is exactly zero"
    assert arrays["map"].shape[-1] == arrays["map"].shape[-2]
    return not arrays["map"].triu(1).any()


def row_sums(sentence, arrays, _content):
    target, tolerance = said("every row sums to # within #", sentence)
    return all(abs(sum(row) - target) <= tolerance for row in rows_of(arrays["map"]))


def window_mass(sentence, arrays, _content):
    share, width = said(
        "at least # of every row's absolute weight lies on its last # tokens", sentence
    )
    steps = arrays["map"].shape[-1]
    assert steps == arrays["map"].shape[-2]
    for number, row in enumerate(rows_of(arrays["map"])):
        token = number % steps
        near = sum((abs(v) for j, v in enumerate(row) if 0 <= token - j < width), Fraction(0))
        if near < share * sum(map(abs, row)):
            return False
    return True


def same_map(sentence, arrays, _content):
    (tolerance,) = said("the two maps differ by at most # in Frobenius norm", sentence)
    pairs = zip(arrays["map"].flatten().tolist(), arrays["other"].flatten().tolist(), strict=True)
    return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs) <= tolerance**2


def augmented(key, rows: int, constant: bool):
    lists = [[*row, 1.0] if constant else row for row in key[:rows].tolist()]
    return [[Fraction(v) for v in row] for row in lists]


def rank(matrix: list[list[Fraction]]) -> int:
    entries = [[flint.fmpq(v.numerator, v.denominator) for v in row] for row in matrix]
    return flint.fmpq_mat(entries).rank()


def stored_map(arrays, prefix, read):
    """The map of the stored system: every entry by the product of the matrices between."""
    parts = {name: arrays[prefix + name] for name in ("A", "B", "C", "D", "left", "right")}
    steps, _, inputs = parts["B"].shape
    outputs = parts["C"].shape[1]

    def fractions(name, t):
        rows = parts[name][t]
        rows = torch.diag(rows) if rows.ndim == 1 else rows
        return [[Fraction(v) for v in row] for row in rows.tolist()]

    def times(one, other):
        columns = list(zip(*other, strict=True))
        return [[sum(a * b for a, b in zip(r, c, strict=True)) for c in columns] for r in one]

    def plus(one, other):
        return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]

    def moving(t):
        turned = [list(column) for column in zip(*fractions("right", t), strict=True)]
        return plus(fractions("A", t), times(fractions("left", t), turned))

    map = [[Fraction(0)] * (steps * inputs) for _ in range(steps * outputs)]
    for i, j in product(range(steps), repeat=2):
        block = fractions("D", i) if i == j else [[Fraction(0)] * inputs for _ in range(outputs)]
        last = i if read == "after" else i - 1
        if last >= j:
            state = fractions("B", j)
            for t in range(j + 1, last + 1):
                state = times(moving(t), state)
            block = plus(block, times(fractions("C", i), state))
        for o, row in enumerate(block):
            map[i * outputs + o][j * inputs : (j + 1) * inputs] = row
    return map


def system_nonnegative(sentence, arrays, _content):
    start = "in exact arithmetic, no weight of the map of the stored system, read "
    found = re.fullmatch(start + "(before|after) its update, is below zero", sentence)
    return all(value >= 0 for row in stored_map(arrays, "", found[1]) for value in row)


def system_row_sums(sentence, arrays, _content):
    start = "in exact arithmetic, every row of the map of the stored system, read "
    pattern = start + f"(before|after) its update, sums to {NUMBER} within {NUMBER}"
    found = re.fullmatch(pattern, sentence)
    target, tolerance = read(found[2]), read(found[3])
    return all(abs(sum(row) - target) <= tolerance for row in stored_map(arrays, "", found[1]))


def same_system(sentence, arrays, _content):
    start = "in exact arithmetic, the map of the stored system, read (before|after) its update, and"
    pattern = start + r" that of the other one, read (before|after) its update, differ by at most "
    found = re.fullmatch(pattern + NUMBER + " in Frobenius norm", sentence)
    maps = stored_map(arrays, "", found[1]), stored_map(arrays, "other_", found[2])
    pairs = zip(*([value for row in map for value in row] for map in maps), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) <= read(found[3]) ** 2


def product_norm(sentence, arrays, _content):
    start = (
        r"in exact arithmetic, no product of (\d+) stored transitions in a row stretches a state"
    )
    found = re.fullmatch(start + f" by more than {NUMBER}", sentence)
    width, most = int(found[1]), read(found[2])
    moving = []
    for own, left, right in zip(*(arrays[role] for role in ("A", "left", "right")), strict=True):
        whole, one, other = (
            mpmath.matrix(part.tolist())
            for part in (own if own.ndim == 2 else torch.diag(own), left, right)
        )
        moving.append(whole + one * other.T)
    for first in range(len(moving) - width + 1):
        through = moving[first]
        for later in moving[first + 1 : first + width]:
            through = later * through
        if max(mpmath.svd_r(through, compute_uv=False)) > high(most):
            return False
    return True


ROWS = "in exact arithmetic, for every scale but zero, different queries get different softmax rows"


def injective(sentence, arrays, _content):
    found = re.fullmatch(ROWS + r" from row (-?\d+) on, (with|without) a sink", sentence)
    first, constant = int(found[1]), found[2] == "without"
    key = arrays["key"]
    assert 0 <= first < len(key)
    matrix = augmented(key, first + 1, constant)
    return rank(matrix) == key.shape[1] + constant


def injective_masked(sentence, arrays, _content):
    found = re.fullmatch(
        ROWS + r" in every row of the stored mask that shows at least (\d+) keys,"
        " (with|without) a sink",
        sentence,
    )
    least, constant = int(found[1]), found[2] == "without"
    key = arrays["key"]
    shown = [line for line in arrays["mask"].bool() if line.sum() >= least]
    assert shown
    assert least >= key.shape[1] + constant
    return all(
        rank(augmented(key[line], len(key), constant)) == key.shape[1] + constant for line in shown
    )


def smallest_singular(key, rows: int):
    matrix = mpmath.matrix([[high(v) for v in row] for row in augmented(key, rows, True)])
    values = mpmath.eigsy(matrix.T * matrix, eigvals_only=True)
    return mpmath.sqrt(max(min(values), mpmath.mpf(0)))


def margin(sentence, arrays, _content):
    first, bound = said(
        r"the smallest singular value of \[keys, 1\] up to row # is at least #", sentence
    )
    return smallest_singular(arrays["key"], int(first) + 1) >= high(bound) * (1 - SLACK)


def injective_within(sentence, arrays, _content):
    first, distance = said(
        f"{ROWS} from row # on, for all keys within # of the stored ones in Frobenius norm",
        sentence,
    )
    matrix = augmented(arrays["key"], int(first) + 1, True)
    full = rank(matrix) == arrays["key"].shape[1] + 1
    if distance == 0 or not full:
        return full
    least = smallest_singular(arrays["key"], int(first) + 1)
    return distance >= 0 and least > high(distance) * (1 - SLACK)


def linear_injective(sentence, arrays, content):
    start = "in exact arithmetic, different queries get different rows of normalised linear"
    found = re.fullmatch(start + r" attention with features (\w+) and without an epsilon", sentence)
    feature = {
        "identity": lambda x: x,
        "relu": lambda x: max(x, mpmath.mpf(0)),
        "elu_plus_one": lambda x: x + 1 if x >= 0 else mpmath.exp(x),
    }[found[1]]
    key, witness = arrays["key"], content["witness"]
    row = witness["row"]
    assert 0 <= row < len(key)
    keys = [[feature(high(v)) for v in part] for part in key[: row + 1].tolist()]
    queries = [[stored(v) for v in witness[name]] for name in ("query", "other")]
    assert queries[0] != queries[1]
    weights = []
    for query in queries:
        assert len(query) == key.shape[1]
        image = [feature(high(v)) for v in query]
        scores = [sum(a * b for a, b in zip(image, part, strict=True)) for part in keys]
        weights.append([score / sum(scores) for score in scores])
    return any(abs(a - b) > SLACK * (1 + abs(a)) for a, b in zip(*weights, strict=True))


def stored(text: str) -> Fraction:
    return Fraction(text) if "/" in text else Fraction(float.fromhex(text))


def gains(arrays):
    key, rate = arrays["key"], arrays["rate"]
    logs = arrays.get("log_decay")
    assert rate.shape == key.shape[:1]
    for token in range(len(key)):
        k = mpmath.matrix([high(v) for v in key[token].tolist()])
        step = mpmath.eye(key.shape[1]) - high(rate[token].item()) * (k * k.T)
        values = mpmath.eigsy(step, eigvals_only=True)
        decay = mpmath.mpf(1) if logs is None else mpmath.exp(high(logs[token].item()))
        yield decay * max(map(abs, values))


def nonexpansive(sentence, arrays, content):
    assert sentence == "no transition I - b k k^T expands"
    return _expands_nowhere(arrays, content)


def nonexpansive_decayed(sentence, arrays, content):
    assert sentence == "no transition e^g (I - b k k^T) expands, its decay e^g included"
    return _expands_nowhere(arrays, content)


def _expands_nowhere(arrays, content):
    """With room for the rounding of eigenvalues, on the side that favours the verdict."""
    slack = mpmath.mpf(10) ** -40
    return max(gains(arrays)) <= 1 + (slack if content["verdict"] == "PROVED" else -slack)


def decay(sentence, arrays, _content):
    width, most = said("every product of decays over # tokens is at most #", sentence)
    logs = arrays["log_decay"]
    assert 1 <= width <= logs.shape[-1]
    for row in logs.reshape(-1, logs.shape[-1]).tolist():
        for start in range(len(row) - int(width) + 1):
            part = row[start : start + int(width)]
            if -mpmath.inf in part:
                continue
            total = sum(map(Fraction, part), Fraction(0))
            if mpmath.exp(high(total)) > high(most):
                return False
    return True


def decay_box(sentence, arrays, _content):
    low, top, width, most = said(
        "for every input of the stored box, whose coordinates lie between # and #, the decay over #"
        " tokens is at most #",
        sentence,
    )
    lower, upper = arrays["lower"].tolist(), arrays["upper"].tolist()
    assert (low, top) == (min(map(Fraction, lower)), max(map(Fraction, upper)))
    weight, bias, rate = arrays["weight"].tolist(), arrays["bias"].item(), arrays["rate"].item()
    for corner in product(*zip(lower, upper, strict=True)):
        drive = sum(Fraction(w) * Fraction(x) for w, x in zip(weight, corner, strict=True))
        soft = mpmath.log1p(mpmath.exp(high(drive + Fraction(bias))))
        if mpmath.exp(-high(width) * high(rate) * soft) > high(most):
            return False
    return True


def locality(sentence, arrays, content):
    low, top, share, scale, start, stop = said(
        "for every query of the stored box, whose coordinates lie between # and #, at least # of"
        r" the softmax row \(scale #\) lies on the keys from # up to, but not including, #",
        sentence,
    )
    lower, upper = arrays["lower"].tolist(), arrays["upper"].tolist()
    assert (low, top) == (min(map(Fraction, lower)), max(map(Fraction, upper)))
    sides = [(high(a), high(b)) for a, b in zip(lower, upper, strict=True)]
    middle = [(a + b) / 2 for a, b in sides]
    points = [middle, *product(*sides)]
    points += [[(m + x) / 2 for m, x in zip(middle, corner, strict=True)] for corner in points[1:]]
    if content["verdict"] == "REFUTED":
        points = [[high(stored(v)) for v in content["witness"]["query"]]]
        assert all(a <= x <= b for x, (a, b) in zip(points[0], sides, strict=True))
    keys = [[high(scale) * high(v) for v in row] for row in arrays["key"].tolist()]
    for point in points:
        scores = [sum(a * b for a, b in zip(row, point, strict=True)) for row in keys]
        best = max(scores)
        weights = [mpmath.exp(score - best) for score in scores]
        if sum(weights[int(start) : int(stop)]) < high(share) * sum(weights):
            return False
    return True


START = "in exact arithmetic, with the stored weights and the stored input, "


def silu(z):
    return z / (1 + mpmath.exp(-z))


def exact_rows(part):
    return [[high(v) for v in row] for row in part.reshape(-1, part.shape[-1]).tolist()]


def against(matrix, vectors):
    return [[mpmath.fdot(row, v) for row in exact_rows(matrix)] for v in vectors]


def filtered(values, taps, bias=None):
    """A causal convolution of every channel."""
    found = []
    for t, now in enumerate(values):
        row = []
        for channel in range(len(now)):
            total = high(bias[channel].item()) if bias is not None else mpmath.mpf(0)
            for back, tap in enumerate(reversed(taps[channel].tolist())):
                if back <= t:
                    total += high(tap) * values[t - back][channel]
            row.append(total)
        found.append(row)
    return found


def activated(parts, name):
    mixed = filtered(against(parts[f"{name}_weight"], exact_rows(parts["input"])),
                     parts[f"{name}_convolution"], parts.get(f"{name}_bias"))  # fmt: skip
    return [[silu(z) for z in row] for row in mixed]


def of_one(parts, name):
    (value,) = parts[name].tolist()
    return high(value)


def head_steps(parts):
    drives = against(parts["step_weight"], exact_rows(parts["input"]))
    return [mpmath.log1p(mpmath.exp(z + of_one(parts, "step_bias"))) for (z,) in drives]


def softmax_map(parts):
    def turned(name):
        found = against(parts[name], exact_rows(parts["input"]))
        half = parts["cos"].shape[1] // 2
        for row, c, s in zip(found, exact_rows(parts["cos"]), exact_rows(parts["sin"]),
                             strict=True):  # fmt: skip
            a, b = row[:half], row[half : 2 * half]
            row[:half] = [x * p - y * q for x, y, p, q in zip(a, b, c[:half], s, strict=False)]
            row[half : 2 * half] = [
                y * p + x * q for x, y, p, q in zip(a, b, c[half:], s[half:], strict=True)
            ]
        return found

    query, key = turned("query_weight"), turned("key_weight")
    rows = []
    for i, q in enumerate(query):
        shares = [mpmath.exp(of_one(parts, "scale") * mpmath.fdot(q, k)) for k in key[: i + 1]]
        rows.append([share / sum(shares) for share in shares])
    return rows


def scanned(states, steps, speeds, read, write, skip):
    """Every state follows its own recurrence from an impulse at token j."""
    rows = [[] for _ in steps]
    for j in range(len(steps)):
        state = [steps[j] * w for w in write[j]]
        for i in range(j, len(steps)):
            if i > j:
                state = [h * mpmath.exp(-a * steps[i]) for h, a in zip(state, speeds, strict=True)]
            rows[i].append(mpmath.fdot(read[i], state) + (skip if i == j else 0))
    assert len(state) == states
    return rows


def selective_map(parts):
    mixed = filtered(against(parts["input_weight"], exact_rows(parts["input"])),
                     parts["convolution_weight"], parts["convolution_bias"])  # fmt: skip
    u = [[silu(z) for z in row] for row in mixed]
    drives = against(parts["step_up_weight"], against(parts["step_down_weight"], u))
    steps = [mpmath.log1p(mpmath.exp(z + of_one(parts, "step_bias"))) for (z,) in drives]
    speeds = [mpmath.exp(high(a)) for a in parts["A_log"].tolist()]
    read, write = against(parts["read_weight"], u), against(parts["write_weight"], u)
    return scanned(len(speeds), steps, speeds, read, write, of_one(parts, "D"))


def duality_map(parts):
    read, write, steps = activated(parts, "read"), activated(parts, "write"), head_steps(parts)
    speed, states = mpmath.exp(of_one(parts, "A_log")), len(read[0])
    return scanned(states, steps, [speed] * states, read, write, of_one(parts, "D"))


def delta_map(parts):
    def unit(row):
        return [v / mpmath.sqrt(mpmath.fdot(row, row) + of_one(parts, "epsilon")) for v in row]

    read, key = ([unit(row) for row in activated(parts, name)] for name in ("read", "write"))
    drives = against(parts["rate_weight"], exact_rows(parts["input"]))
    rates = [1 / (1 + mpmath.exp(-z)) for (z,) in drives]
    speed = mpmath.exp(of_one(parts, "A_log"))
    logs = [-speed * step for step in head_steps(parts)]
    width, rows = len(key[0]), [[] for _ in key]
    for j in range(len(key)):
        state = [rates[j] * k for k in key[j]]
        for i in range(j, len(key)):
            if i > j:
                k = key[i]
                step = [[(m == n) - rates[i] * k[m] * k[n] for n in range(width)]
                        for m in range(width)]  # fmt: skip
                state = [mpmath.exp(logs[i]) * mpmath.fdot(row, state) for row in step]
            rows[i].append(of_one(parts, "scale") * mpmath.fdot(read[i], state))
    return rows


FORMS = {
    "softmax attention": softmax_map,
    "a selective state-space scan": selective_map,
    "a state-space scan with one decay for all states": duality_map,
    "a gated delta rule": delta_map,
}


def layer_nonnegative(sentence, arrays, content):
    found = re.fullmatch(START + "no weight of the map of (.*) is below zero", sentence)
    rows = FORMS[found[1]](arrays)
    weights = [weight for row in rows for weight in row]
    least = -SLACK * max(map(abs, weights)) if content["verdict"] == "PROVED" else 0
    return min(weights) >= least


def layer_row_sums(sentence, arrays, _content):
    pattern = f"every row of the map of (.*) sums to {NUMBER} within {NUMBER}"
    found = re.fullmatch(START + pattern, sentence)
    rows = FORMS[found[1]](arrays)
    target, tolerance = high(read(found[2])), high(read(found[3]))
    return all(abs(sum(row) - target) <= tolerance for row in rows)


KINDS = ("gated_delta_net", "selective_state_space", "softmax_attention", "state_space_duality")
JUDGES = {
    judge.__name__: judge
    for judge in (
        causal, decay, decay_box, injective, injective_masked, injective_within, linear_injective,
        locality, margin, nonexpansive, nonexpansive_decayed, nonnegative, product_norm,
        row_sums, same_map, same_system, system_nonnegative, system_row_sums, window_mass,
    )
}  # fmt: skip
JUDGES |= {
    f"{kind}_{name}": judge
    for kind in KINDS
    for name, judge in (
        ("nonnegative", layer_nonnegative), ("row_sums", layer_row_sums),
    )
}  # fmt: skip
