"""Accept or reject certificates, with the standard library alone.

    python -I -S checker.py FILE...

A certificate is a JSON file beside the tensors it speaks about (safetensors). This file reads
both, derives the verdict anew from the stored bytes and the evidence, and rejects what differs. It
imports nothing of the library that wrote the certificate, and decides in integers and fractions
only: a finite float is the fraction it stores. Exit status 0 if all files are accepted, 1
otherwise.
"""

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import isfinite, isqrt
from pathlib import Path, PurePosixPath
from typing import Any

FORMAT, FORMAT_VERSION = "dsf-certificate", 1
LARGEST_FILE = 64 << 20
LARGEST_HEADER = 16 << 20
BITS = 160  # of every enclosure
KEYS = {
    "arithmetic", "assumptions", "bound", "claim", "evidence", "format", "format_version",
    "identity", "level", "limits", "method", "observed", "provenance", "software", "subject",
    "verdict", "witness",
}  # fmt: skip


class Rejected(Exception):
    """The certificate does not prove what it states."""


# --- text ------------------------------------------------------------------------------------


def canonical(content: dict[str, Any]) -> str:
    """The canonical text of a certificate: sorted keys, fixed spacing, a final newline."""
    return json.dumps(content, sort_keys=True, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def identity(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical text without the identity itself."""
    rest = {name: value for name, value in content.items() if name != "identity"}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def parse(text: str) -> dict[str, Any]:
    """The content of a certificate, once its text is canonical and its identity is correct."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Rejected("a name stands twice in one object")
        return found

    def refuse(text: str) -> Any:
        raise Rejected(f"numbers with a point or an exponent, such as {text!r}, are not allowed")

    try:
        content = json.loads(
            text, object_pairs_hook=unique, parse_float=refuse, parse_constant=refuse
        )
    except (ValueError, RecursionError) as error:
        raise Rejected(f"not readable as JSON: {error}") from None
    if not isinstance(content, dict) or set(content) != KEYS:
        raise Rejected("the keys are not those of a certificate")
    if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
        raise Rejected(f"not of format {FORMAT} {FORMAT_VERSION}")
    if canonical(content) != text:
        raise Rejected("the text is not canonical")
    if identity(content) != content["identity"]:
        raise Rejected("the identity does not fit the content")
    return content


def whole(text: Any) -> int:
    """An integer from its hexadecimal text."""
    if not isinstance(text, str):
        raise Rejected(f"an integer must be hexadecimal text, but {text!r} came")
    try:
        return int(text, 16)
    except ValueError:
        raise Rejected(f"{text!r} is no hexadecimal integer") from None


def number(text: Any) -> Fraction:
    """A fraction from ``"hex/hex"``, or from the hexadecimal text of a float."""
    if not isinstance(text, str):
        raise Rejected(f"a number must be text, but {text!r} came")
    try:
        if "/" in text:
            above, below = text.split("/")
            return Fraction(int(above, 16), int(below, 16))
        return Fraction(*float.fromhex(text).as_integer_ratio())
    except (ValueError, OverflowError, ZeroDivisionError):
        raise Rejected(f"{text!r} is no finite number") from None


def place(value: Any, size: int, what: str) -> int:
    """An index, checked to lie in ``0 ... size - 1``."""
    if type(value) is not int or not 0 <= value < size:
        raise Rejected(f"{what} {value!r} lies outside 0 ... {size - 1}")
    return value


# --- tensors ---------------------------------------------------------------------------------

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
CODES = {"F64": "d", "F32": "f", "F16": "e"}


class Matrix:
    """A stored matrix, or a vector as one row, read as exact fractions."""

    def __init__(self, kind: str, shape: Sequence[int], data: bytes):
        self.columns = shape[-1] if shape else 1
        self.rows = 1
        for size in shape[:-1]:
            self.rows *= size
        self.kind, self.data = kind, data

    def row(self, index: int) -> list[Fraction]:
        """One row as fractions."""
        return [Fraction(*value.as_integer_ratio()) for value in self._floats(index)]

    def scaled(self, index: int, extra: Sequence[int] = ()) -> tuple[list[int], int]:
        """One row followed by ``extra``, as integers over a common power of two."""
        parts = [value.as_integer_ratio() for value in self._floats(index)]
        unit = max([below for _, below in parts], default=1)
        found = [above * (unit // below) for above, below in parts]
        return found + [value * unit for value in extra], unit

    def _floats(self, index: int) -> tuple[float, ...]:
        width = SIZES[self.kind] * self.columns
        raw = self.data[index * width : (index + 1) * width]
        if self.kind == "BF16":
            halves = struct.unpack(f"<{self.columns}H", raw)
            raw, code = struct.pack(f"<{self.columns}I", *(half << 16 for half in halves)), "f"
        else:
            code = CODES[self.kind]
        values = struct.unpack(f"<{self.columns}{code}", raw)
        if not all(map(isfinite, values)):
            raise Rejected("a stored number is not finite")
        return values


def load(folder: Path, entry: dict[str, Any]) -> Matrix:
    """The tensor that an entry of ``subject`` names, after its bytes have the stated hash."""
    path = _inside(folder, entry["file"])
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise Rejected(f"{entry['file']} is no safetensors file")
        header = json.loads(file.read(length))
        stored = header.get(entry["tensor"])
        if not isinstance(stored, dict):
            raise Rejected(f"{entry['file']} holds no tensor {entry['tensor']!r}")
        kind, shape = stored["dtype"], stored["shape"]
        if kind not in SIZES or kind != entry["dtype"] or shape != entry["shape"]:
            raise Rejected(f"tensor {entry['tensor']!r} has another type or shape than stated")
        start, stop = stored["data_offsets"]
        count = SIZES[kind]
        for extent in shape:
            count *= extent
        if stop - start != count or not 0 <= start <= stop <= size - 8 - length:
            raise Rejected(f"tensor {entry['tensor']!r} does not fit its file")
        file.seek(8 + length + start)
        data = file.read(count)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Rejected(f"tensor {entry['tensor']!r} has other bytes than the ones certified")
    return Matrix(kind, shape, data)


def _inside(folder: Path, name: Any) -> Path:
    plain = PurePosixPath(str(name))
    if plain.is_absolute() or ".." in plain.parts or "\\" in str(name) or not plain.parts:
        raise Rejected(f"{name!r} is no plain path inside the run")
    path = folder
    for part in plain.parts:
        path = path / part
        if path.is_symlink():
            raise Rejected(f"{name!r} goes through a link")
    if not path.is_file():
        raise Rejected(f"{name!r} is missing")
    return path


# --- enclosures ------------------------------------------------------------------------------


def down(value: Fraction) -> Fraction:
    """``value`` rounded down to a multiple of 2^-BITS relative to its size."""
    return _rounded(value, up=False)


def up(value: Fraction) -> Fraction:
    """``value`` rounded up to a multiple of 2^-BITS relative to its size."""
    return _rounded(value, up=True)


def _rounded(value: Fraction, *, up: bool) -> Fraction:
    above, below = value.numerator, value.denominator
    shift = BITS - above.bit_length() + below.bit_length()
    above, below = above << max(shift, 0), below << max(-shift, 0)
    cut = -(-above // below) if up else above // below
    return Fraction(cut, 1 << shift) if shift >= 0 else Fraction(cut << -shift)


def exp_below(x: Fraction) -> Fraction:
    """A number at most e^x."""
    return _exp(x)[0]


def exp_above(x: Fraction) -> Fraction:
    """A number at least e^x."""
    return _exp(x)[1]


def _exp(x: Fraction) -> tuple[Fraction, Fraction]:
    if abs(x) > 1 << 20:
        raise Rejected("an exponent is too large to enclose")
    if x < 0:
        low, high = _exp(-x)
        return down(1 / high), up(1 / low)
    halvings = max(0, x.__ceil__().bit_length() + 8)
    below = _exp_small(down(x / (1 << halvings)))[0]
    above = _exp_small(up(x / (1 << halvings)))[1]
    for _ in range(halvings):
        below, above = down(below * below), up(above * above)
    return below, above


def _exp_small(x: Fraction) -> tuple[Fraction, Fraction]:
    """e^x for 0 <= x <= 2^-7 by its series; the rest is at most twice the first term left out."""
    term, total, n = Fraction(1), Fraction(1), 1
    while term > Fraction(1, 1 << (BITS + 8)):
        term = up(term * x / n)
        total, n = total + term, n + 1
    slack = Fraction(n + 2, 1 << (BITS - 8))
    return down(total - slack), up(total + slack)


def softplus_below(x: Fraction) -> Fraction:
    """A number at most log(1 + e^x): its tangent at a few points, the best of them."""
    best = max(Fraction(0), x)
    for _ in range(6):  # Newton from below on e^y = 1 + e^x, each step checked
        target = 1 + exp_below(x)
        step = best + (target / exp_above(best) - 1) / (target / exp_above(best))
        if exp_above(down(step)) <= target and step > best:
            best = down(step)
    return best


def added(values: Iterable[Fraction]) -> Fraction:
    """The exact sum."""
    return sum(values, Fraction(0))


def root_above(value: Fraction) -> Fraction:
    """A number at least the square root."""
    scaled = (value.numerator << (2 * BITS)) // value.denominator + 1
    return Fraction(isqrt(scaled) + 1, 1 << BITS)


# --- claims ----------------------------------------------------------------------------------

Subject = dict[str, Matrix]
Content = dict[str, Any]


def injective(content: Content, subject: Subject) -> str:
    """Softmax rows are injective in the query iff [keys in reach, 1] has full column rank."""
    key, parameters = subject["key"], content["claim"]["parameters"]
    first = place(parameters["first_row"], key.rows, "first_row")
    sink = parameters["sink"] is True
    width = key.columns if sink else key.columns + 1
    extra = () if sink else (1,)
    if content["verdict"] == "REFUTED":
        witness = content["witness"]
        row = place(witness["row"], key.rows, "row")
        if row < first:
            raise Rejected("the witness lies outside the rows of the claim")
        null = [whole(part) for part in witness["null"]]
        if len(null) != key.columns + 1 or not any(null[:-1]) or (sink and null[-1]):
            raise Rejected("the witness is no direction of the query")
        for index in range(row + 1):
            ints, unit = key.scaled(index)
            if sum(a * v for a, v in zip(ints, null, strict=False)) + null[-1] * unit != 0:
                raise Rejected(f"the witness moves the score of key {index}")
        return "REFUTED"
    rows = [place(index, first + 1, "row") for index in content["evidence"]["rows"]]
    if len(set(rows)) != len(rows) or len(rows) != width:
        raise Rejected(f"{width} different rows are needed")
    modulus = whole(content["evidence"]["modulus"])
    if modulus < 2:
        raise Rejected("the modulus must be at least 2")
    _full_rank([key.scaled(index, extra)[0] for index in rows], modulus)
    return "PROVED"


def _full_rank(matrix: list[list[int]], modulus: int) -> None:
    """Raise unless the determinant is a unit modulo ``modulus``: then it is not zero."""
    rows = [[value % modulus for value in row] for row in matrix]
    for column in range(len(rows)):
        for pivot in range(column, len(rows)):
            try:
                inverse = pow(rows[pivot][column], -1, modulus)
            except ValueError:
                continue
            break
        else:
            raise Rejected("the rows are dependent modulo the stated number")
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column]
        for row in rows[column + 1 :]:
            if row[column]:
                factor = row[column] * inverse % modulus
                row[column:] = [
                    (a - factor * b) % modulus
                    for a, b in zip(row[column:], lead[column:], strict=True)
                ]


FEATURES: dict[str, Callable[[Fraction], Fraction | None]] = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, Fraction(0)),
    "elu_plus_one": lambda x: x + 1 if x >= 0 else None,
}


def linear_injective(content: Content, subject: Subject) -> str:
    """Normalised linear attention: two queries with proportional features share their weights."""
    key = subject["key"]
    name = content["claim"]["parameters"]["feature_map"]
    feature = FEATURES.get(name)
    if feature is None or content["verdict"] != "REFUTED":
        raise Rejected("only refutations with a known feature map can be checked")
    pair = [[number(part) for part in content["witness"][query]] for query in ("query", "other")]
    if pair[0] == pair[1] or any(len(query) != key.columns for query in pair):
        raise Rejected("two different queries of the keys' width are needed")
    images = [[feature(part) for part in query] for query in pair]
    if any(part is None for image in images for part in image):
        raise Rejected("the features of the queries are not rational")
    one, other = images
    lead = next((k for k, part in enumerate(one) if part), None)
    if lead is None or not other[lead]:
        raise Rejected("the features of a query vanish")
    factor = other[lead] / one[lead]  # type: ignore[operator]
    if any(b != factor * a for a, b in zip(one, other, strict=True)):  # type: ignore[operator]
        raise Rejected("the features are not proportional")
    if name != "elu_plus_one":  # there every feature is above zero, so every sum is
        row = place(content["witness"]["row"], key.rows, "row")
        total = Fraction(0)
        for index in range(row + 1):
            values = (feature(part) for part in key.row(index))
            total += added(a * b for a, b in zip(one, values, strict=True))  # type: ignore[operator]
        if total == 0:
            raise Rejected("the weights have no denominator")
    return "REFUTED"


def margin(content: Content, subject: Subject) -> str:
    """sigma_min([K, 1]) >= bound: s² I + RᵀR misses AᵀA by E, so sigma² >= s² - |E|."""
    key, factor = subject["key"], subject["factor"]
    first = place(content["claim"]["parameters"]["first_row"], key.rows, "first_row")
    rows = [place(index, first + 1, "row") for index in content["evidence"]["rows"]]
    if len(set(rows)) != len(rows):
        raise Rejected("a row is named twice")
    width = key.columns + 1
    if (factor.rows, factor.columns) != (width, width):
        raise Rejected("the factor has the wrong size")
    gram, unit = _gram([key.scaled(index, (1,)) for index in rows], width)
    other, other_unit = _gram([factor.scaled(index) for index in range(width)], width)
    shift, bound = number(content["evidence"]["shift"]), number(content["bound"]["value"])
    energy = Fraction(0)
    for i in range(width):
        for j in range(width):
            miss = Fraction(gram[i][j], unit) - Fraction(other[i][j], other_unit)
            energy += (miss - (shift * shift if i == j else 0)) ** 2
    if bound <= 0 or bound * bound > shift * shift - root_above(energy):
        raise Rejected("the residual does not leave the stated bound")
    return "PROVED"


def _gram(rows: list[tuple[list[int], int]], width: int) -> tuple[list[list[int]], int]:
    """Sum of rowᵀ row as integers over one square unit."""
    unit = max(below for _, below in rows)
    columns = list(zip(*([v * (unit // below) for v in row] for row, below in rows), strict=True))
    gram = [[0] * width for _ in range(width)]
    for i in range(width):
        for j in range(i + 1):
            dot = sum(map(int.__mul__, columns[i], columns[j]))
            gram[i][j] = gram[j][i] = dot
    return gram, unit * unit


def row_sums(content: Content, subject: Subject) -> str:
    """Every stored row sums to ``target`` within ``tolerance``."""
    weights, parameters = subject["map"], content["claim"]["parameters"]
    target, tolerance = number(parameters["target"]), number(parameters["tolerance"])

    def off(row: int) -> bool:
        return abs(added(weights.row(row)) - target) > tolerance

    return _each_row(content, weights, off)


def nonnegative(content: Content, subject: Subject) -> str:
    """No stored weight is below zero."""
    weights = subject["map"]
    return _each_row(content, weights, lambda row: min(weights.row(row)) < 0)


def causal(content: Content, subject: Subject) -> str:
    """Every stored weight above the diagonal is exactly zero."""
    weights = subject["map"]
    if weights.rows % weights.columns:
        raise Rejected("the map is not square")
    steps = weights.columns
    return _each_row(content, weights, lambda row: any(weights.row(row)[row % steps + 1 :]))


def window_mass(content: Content, subject: Subject) -> str:
    """At least ``share`` of every row's absolute weight lies on its last ``width`` tokens."""
    weights, parameters = subject["map"], content["claim"]["parameters"]
    width, share = parameters["width"], number(parameters["share"])
    if type(width) is not int or width < 1 or weights.rows % weights.columns:
        raise Rejected("the window must hold at least one token of a square map")

    def short(row: int) -> bool:
        values = [abs(part) for part in weights.row(row)]
        token = row % weights.columns
        return added(values[max(0, token - width + 1) : token + 1]) < share * added(values)

    return _each_row(content, weights, short)


def _each_row(content: Content, weights: Matrix, fails: Callable[[int], bool]) -> str:
    if content["verdict"] == "REFUTED":
        row = place(content["witness"]["row"], weights.rows, "row")
        if not fails(row):
            raise Rejected(f"row {row} keeps the claim")
        return "REFUTED"
    for row in range(weights.rows):
        if fails(row):
            raise Rejected(f"row {row} breaks the claim")
    return "PROVED"


def same_map(content: Content, subject: Subject) -> str:
    """Two stored maps differ by at most ``tolerance`` in Frobenius norm."""
    first, second = subject["map"], subject["other"]
    if (first.rows, first.columns) != (second.rows, second.columns):
        raise Rejected("the maps have different sizes")
    tolerance = number(content["claim"]["parameters"]["tolerance"])
    energy = Fraction(0)
    for row in range(first.rows):
        pairs = zip(first.row(row), second.row(row), strict=True)
        energy += added((a - b) ** 2 for a, b in pairs)
    return "PROVED" if energy <= tolerance * tolerance and tolerance >= 0 else "REFUTED"


def nonexpansive(content: Content, subject: Subject) -> str:
    """I - b k kᵀ never expands: 0 <= b |k|² <= 2 at every token."""
    key, rate = subject["key"], subject["rate"]
    rates = [part for row in range(rate.rows) for part in rate.row(row)]
    if len(rates) != key.rows:
        raise Rejected("one rate for every key is needed")

    def expands(row: int) -> bool:
        size = rates[row] * added(part * part for part in key.row(row))
        return not 0 <= size <= 2

    return _each_row(content, key, expands)


def decay(content: Content, subject: Subject) -> str:
    """The product of stored decays e^g over any ``width`` tokens is at most ``most``."""
    logs, parameters = subject["log_decay"], content["claim"]["parameters"]
    width, most = parameters["width"], number(parameters["most"])
    if type(width) is not int or not 1 <= width <= logs.columns or most <= 0:
        raise Rejected("the window does not fit the sequence")

    def large(row: int) -> bool:
        values = logs.row(row)
        total = added(values[:width])
        worst = total
        for t in range(width, len(values)):
            total += values[t] - values[t - width]
            worst = max(worst, total)
        if content["verdict"] == "REFUTED":
            return exp_below(worst) > most
        return exp_above(worst) > most

    return _each_row(content, logs, large)


def decay_box(content: Content, subject: Subject) -> str:
    """exp(-rate softplus(w.x + b)) over ``width`` tokens is at most ``most`` for all x in a box."""
    weight, bias, rate, low, high = (
        [part for row in range(m.rows) for part in m.row(row)]
        for m in (subject[name] for name in ("weight", "bias", "rate", "lower", "upper"))
    )
    parameters = content["claim"]["parameters"]
    width, most = parameters["width"], number(parameters["most"])
    sizes = {len(weight), len(low), len(high)}
    if len(sizes) != 1 or len(bias) != 1 or len(rate) != 1 or any(map(Fraction.__gt__, low, high)):
        raise Rejected("the box does not fit the weights")
    if type(width) is not int or width < 1 or most <= 0 or rate[0] < 0:
        raise Rejected("the window or the rate is out of range")
    corner = [a if w > 0 else b for w, a, b in zip(weight, low, high, strict=True)]
    least = added(w * x for w, x in zip(weight, corner, strict=True)) + bias[0]
    if exp_above(-width * rate[0] * softplus_below(least)) > most:
        raise Rejected("the enclosed product is above the stated one")
    return "PROVED"


def locality(content: Content, subject: Subject) -> str:
    """At least ``share`` of a softmax row lies on ``window`` for all queries of a box."""
    key = subject["key"]
    lower, upper = subject["lower"].row(0), subject["upper"].row(0)
    parameters = content["claim"]["parameters"]
    share, scale = number(parameters["share"]), number(parameters["scale"])
    start, stop = parameters["window"]
    inside = range(place(start, key.rows, "window"), place(stop - 1, key.rows, "window") + 1)
    keys = [[scale * part for part in key.row(index)] for index in range(key.rows)]
    if not inside or not 0 < share < 1 or not len(lower) == len(upper) == key.columns:
        raise Rejected("the window, the share or the box is out of range")
    if any(a > b for a, b in zip(lower, upper, strict=True)):
        raise Rejected("the box is empty")
    odds = (1 - share) / share
    if content["verdict"] == "REFUTED":
        query = [number(part) for part in content["witness"]["query"]]
        if len(query) != len(lower) or any(
            not a <= x <= b for a, x, b in zip(lower, query, upper, strict=True)
        ):
            raise Rejected("the witness lies outside the box")
        scores = [added(a * b for a, b in zip(row, query, strict=True)) for row in keys]
        near = added(exp_above(scores[j]) for j in inside)
        far = added(exp_below(scores[j]) for j in range(len(keys)) if j not in inside)
        if far <= odds * near:
            raise Rejected("the witness keeps the claim")
        return "REFUTED"
    _leaf_or_split(content["evidence"]["tree"], lower, upper, keys, inside, odds)
    return "PROVED"


def _leaf_or_split(
    tree: Any, lower: list[Fraction], upper: list[Fraction],
    keys: list[list[Fraction]], inside: range, odds: Fraction,
) -> None:  # fmt: skip
    """Check all leaves of a split tree, which cover the box by construction."""
    waiting = [(tree, lower, upper)]
    while waiting:
        node, low, high = waiting.pop()
        if "axis" in node:
            axis = place(node["axis"], len(low), "axis")
            middle = (low[axis] + high[axis]) / 2
            waiting.append((node["low"], low, [*high[:axis], middle, *high[axis + 1 :]]))
            waiting.append((node["high"], [*low[:axis], middle, *low[axis + 1 :]], high))
        else:
            _tangent(node, low, high, keys, inside, odds)


def _tangent(
    leaf: Any, lower: list[Fraction], upper: list[Fraction],
    keys: list[list[Fraction]], inside: range, odds: Fraction,
) -> None:  # fmt: skip
    """For any probabilities p on the window, log sum exp >= sum p z + entropy(p)."""
    share = [number(part) for part in leaf["p"]]
    logs = [number(part) for part in leaf["log_p"]]
    if len(share) != len(inside) or len(logs) != len(inside):
        raise Rejected("a leaf must give one probability for every token of the window")
    if any(p < 0 for p in share) or added(share) != 1:
        raise Rejected("the probabilities of a leaf do not sum to one")
    if any(p > 0 and exp_below(high) < p for p, high in zip(share, logs, strict=True)):
        raise Rejected("a logarithm of a leaf is too small")
    centre = [(a + b) / 2 for a, b in zip(lower, upper, strict=True)]
    radius = [(b - a) / 2 for a, b in zip(lower, upper, strict=True)]
    mean = [
        added(p * keys[j][k] for p, j in zip(share, inside, strict=True))
        for k in range(len(centre))
    ]
    base = added(m * c for m, c in zip(mean, centre, strict=True))
    base -= added(p * high for p, high in zip(share, logs, strict=True))
    far = Fraction(0)
    for j, row in enumerate(keys):
        if j not in inside:
            score = added(a * c for a, c in zip(row, centre, strict=True))
            reach = added(abs(a - m) * r for a, m, r in zip(row, mean, radius, strict=True))
            far += exp_above(up(score + reach - base))
    if far > odds:
        raise Rejected("a leaf's bound does not reach the stated share")


CLAIMS: dict[str, Callable[[Content, Subject], str]] = {
    "causal": causal,
    "decay": decay,
    "decay_box": decay_box,
    "injective": injective,
    "linear_injective": linear_injective,
    "locality": locality,
    "margin": margin,
    "nonexpansive": nonexpansive,
    "nonnegative": nonnegative,
    "row_sums": row_sums,
    "same_map": same_map,
    "window_mass": window_mass,
}


SENTENCES = {
    "causal": "every weight above the diagonal is exactly zero",
    "decay": "every product of decays over {width} tokens is at most {most}",
    "decay_box": "for every input in the box the decay over {width} tokens is at most {most}",
    "injective": "from row {first_row} on, different queries get different softmax rows"
    " (sink: {sink})",
    "linear_injective": "different queries get different rows of normalised linear attention"
    " with features {feature_map}",
    "locality": "for every query in the box at least {share} of the softmax row (scale {scale})"
    " lies on keys {window}",
    "margin": "the smallest singular value of [keys, 1] up to row {first_row} is at least"
    " the bound",
    "nonexpansive": "no transition I - b k k^T expands",
    "nonnegative": "no weight is below zero",
    "row_sums": "every row sums to {target} within {tolerance}",
    "same_map": "the two maps differ by at most {tolerance} in Frobenius norm",
    "window_mass": "at least {share} of every row's absolute weight lies on its last {width}"
    " tokens",
}


def sentence(name: str, parameters: dict[str, Any]) -> str:
    """The claim in words, with its parameters as they are stored."""
    plain = {part: _decimal(value) for part, value in parameters.items()}
    return SENTENCES[name].format(**plain)


def _decimal(value: Any) -> Any:
    """A hexadecimal float as the shortest decimal that reads back to it."""
    return repr(float.fromhex(value)) if isinstance(value, str) and "0x" in value else value


# --- the decision ----------------------------------------------------------------------------


def check(path: Path) -> str:
    """The verdict that the file proves.

    Raises:
        Rejected: if the file, its tensors or its evidence do not prove the stated verdict.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise Rejected("the file is too large")
    try:
        content = parse(path.read_text(encoding="utf-8"))
        folder = path.parent.parent if path.parent.name == "certificates" else path.parent
        subject = {entry["role"]: load(folder, entry) for entry in content["subject"]}
        if len(subject) != len(content["subject"]):
            raise Rejected("a role stands twice in the subject")
        claim = CLAIMS.get(content["claim"]["name"])
        if claim is None:
            raise Rejected(f"the claim {content['claim']['name']!r} is unknown")
        stated = content["claim"]
        if stated["sentence"] != sentence(stated["name"], stated["parameters"]):
            raise Rejected("the sentence does not say what the parameters say")
        if content["level"] != "data":
            raise Rejected("only claims about stored data can be checked")
        if content["verdict"] == "UNKNOWN":
            return "UNKNOWN"
        derived = claim(content, subject)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        raise Rejected(f"malformed: {type(error).__name__}: {error}") from None
    except (RecursionError, MemoryError, OverflowError, ZeroDivisionError) as error:
        raise Rejected(f"too large to check: {type(error).__name__}") from None
    if derived != content["verdict"]:
        raise Rejected(f"states {content['verdict']}, but the evidence gives {derived}")
    return derived


def main(paths: Sequence[str]) -> int:
    """Check every file and print a line for each."""
    bad = 0
    for name in paths:
        try:
            print(f"accepted {check(Path(name))} {name}")
        except Rejected as error:
            bad += 1
            print(f"REJECTED {name}: {error}")
    return 1 if bad or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
