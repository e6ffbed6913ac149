"""A second checker of certificates, written from the specification of the format alone.

    python -I -S second_checker.py FILE...

It shares no code with ``checker.py`` and decides by other means where there are some: it reads JSON
by itself, which is canonical or nothing; floats are taken apart into integers; determinants are
computed by elimination without fractions; exponentials are reduced by the logarithm of two. Where
the two disagree, one of them or the specification is wrong. Exit status 0 if at least one file is
given and all are accepted, 1 otherwise.
"""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import product
from math import gcd, isqrt, prod
from pathlib import Path
from typing import Any

MIB = 1 << 20
DIGITS = 4000
DEPTH = 200
FIXED = 320
"""Bits behind the point of the integers in which exponentials and logarithms are computed."""
REACH = 1 << 14


class Refused(Exception):
    """The file breaks a rule of the format, or does not prove what it states."""


def need(condition: bool, reason: str) -> None:
    """Raise unless ``condition`` holds."""
    if not condition:
        raise Refused(reason)


# --- canonical JSON --------------------------------------------------------------------------

STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\nrtfb]|\\u[0-9a-f]{4})*)"')
HEADER_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\nrtfb]|\\u[0-9a-fA-F]{4})*)"')
ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\nrtfb]))')
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
PLAIN = {'"': '"', "\\": "\\", "n": "\n", "r": "\r", "t": "\t", "f": "\f", "b": "\b"}
WORDS = {"null": None, "true": True, "false": False}


class Reader:
    """Reads one JSON text; if ``spaced``, only in its canonical spacing and order of names."""

    def __init__(self, text: str, *, spaced: bool):
        self.text, self.place, self.spaced = text, 0, spaced
        self.identity_line = 0, 0

    def whole(self) -> Any:
        """The value of the text, behind which nothing but one newline stands."""
        found = self.value(0)
        if self.spaced:
            need(self.text[self.place :] == "\n", "the text does not end with one newline")
        else:
            need(not self.text[self.place :].strip(" \t\n\r"), "text behind the header")
        return found

    def value(self, depth: int) -> Any:
        """The value that starts here."""
        self.gap()
        first = self.text[self.place : self.place + 1]
        if first == "{":
            return self.members(depth + 1)
        if first == "[":
            return self.parts(depth + 1)
        if first == '"':
            return self.string()
        for word, meaning in WORDS.items():
            if self.text.startswith(word, self.place):
                self.place += len(word)
                return meaning
        found = INTEGER.match(self.text, self.place)
        if found is None:
            raise Refused(f"no JSON value at character {self.place}")
        need(len(found[0]) <= DIGITS and found[0] != "-0", "an integer is too long, or is -0")
        self.place = found.end()
        return int(found[0])

    def members(self, depth: int) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = {}
        last: str | None = None
        for begin in self.items("{", "}", depth):
            name = self.string()
            need(name not in found, "a name stands twice in one object")
            need(not self.spaced or last is None or last < name, "names are not in order")
            last = name
            self.gap()
            self.literal(": " if self.spaced else ":")
            found[name] = self.value(depth)
            if depth == 1 and name == "identity":
                self.identity_line = begin, self.place
        return found

    def parts(self, depth: int) -> list[Any]:
        """A list."""
        return [self.value(depth) for _ in self.items("[", "]", depth)]

    def items(self, opening: str, closing: str, depth: int) -> Iterator[int]:
        """Stops where each item of an object or list starts."""
        self.literal(opening)
        self.gap()
        if self.text.startswith(closing, self.place):
            self.place += 1
            return
        need(depth <= DEPTH, "objects lie too deep within each other")
        while True:
            begin = self.place
            if self.spaced:
                self.literal("\n" + " " * depth)
            self.gap()
            yield begin
            self.gap()
            if not self.text.startswith(",", self.place):
                break
            self.place += 1
        if self.spaced:
            self.literal("\n" + " " * (depth - 1))
        self.literal(closing)

    def gap(self) -> None:
        """White space, where it is free."""
        while not self.spaced and self.text[self.place : self.place + 1] in (" ", "\t", "\n", "\r"):
            self.place += 1

    def literal(self, expected: str) -> None:
        """Exactly these characters."""
        need(self.text.startswith(expected, self.place), f"not canonical at {self.place}")
        self.place += len(expected)

    def string(self) -> str:
        """A string; in a certificate only what must be is escaped."""
        found = (STRING if self.spaced else HEADER_STRING).match(self.text, self.place)
        if found is None:
            raise Refused(f"no canonical string at character {self.place}")
        self.place = found.end()
        raw = ESCAPE.sub(self._unescaped, found[1])
        return raw.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def _unescaped(self, found: re.Match[str]) -> str:
        if found[2]:
            return PLAIN[found[2]]
        code = int(found[1], 16)
        must = code < 0x20 or code >= 0x7F
        is_canonical = must and chr(code) not in PLAIN.values()
        need(is_canonical or not self.spaced, "an escape that is not canonical")
        return chr(code)


def object_with(value: Any, *names: str) -> list[Any]:
    """The values of an object that has exactly these fields, in this order."""
    need(isinstance(value, dict) and set(value) == set(names), f"fields are not {', '.join(names)}")
    return [value[name] for name in names]


def listed(value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise Refused("a list is missing")
    return value


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise Refused("a text is missing")
    return value


def integer(value: Any, least: int | None = None, below: int | None = None) -> int:
    """An integer between ``least`` and ``below - 1``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("an integer is missing")
    need(least is None or value >= least, "an integer is too small")
    need(below is None or value < below, "an integer is too large")
    return value


HEX = re.compile(r"(-?)0x([01])\.([0-9a-f]{13})p([+-])(0|[1-9][0-9]*)")
RATIO = re.compile(r"(-?[1-9][0-9]*)/([1-9][0-9]*)")


def number(value: Any) -> Fraction:
    """A rational number in its only written form."""
    written = text(value)
    if written == "0x0.0p+0":
        return Fraction(0)
    found = HEX.fullmatch(written)
    if found is not None and len(found[5]) < 5:
        exponent = int(found[4] + found[5])
        digits = int(found[2] + found[3], 16)
        normal = found[2] == "1" and -1022 <= exponent <= 1023
        small = found[2] == "0" and exponent == -1022 and digits > 0
        need((normal or small) and (found[4] == "+" or exponent < 0), "no float64")
        return (-1 if found[1] else 1) * digits * Fraction(2) ** (exponent - 52)
    ratio = RATIO.fullmatch(written)
    if ratio is None or max(map(len, ratio.groups())) > DIGITS:
        raise Refused("a number is not in its only written form")
    above, below = int(ratio[1]), int(ratio[2])
    need(gcd(above, below) == 1 and not fits_float(above, below), "a number has another form")
    return Fraction(above, below)


def fits_float(above: int, below: int) -> bool:
    """Whether a float64 holds a reduced fraction: an odd integer of 53 bits times 2^e."""
    if below & (below - 1):
        return False
    trailing = (abs(above) & -abs(above)).bit_length() - 1
    exponent = trailing - (below.bit_length() - 1)
    bits = abs(above).bit_length() - trailing
    return bits <= 53 and exponent >= -1074 and exponent + bits <= 1024


# --- files -----------------------------------------------------------------------------------


def regular(path: Path, largest: int) -> bytes:
    """The bytes of a regular file that is no link."""
    try:
        seen = os.lstat(path)
        need(stat.S_ISREG(seen.st_mode), "no regular file")
        need(seen.st_size <= largest, "a file is too large")
        with path.open("rb") as file:
            opened = os.fstat(file.fileno())
            need((opened.st_dev, opened.st_ino) == (seen.st_dev, seen.st_ino), "a file was changed")
            data = file.read(seen.st_size + 1)
    except (OSError, ValueError) as error:
        raise Refused(f"cannot be read: {type(error).__name__}") from None
    need(len(data) == seen.st_size, "a file was changed")
    return data


NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
PATH = re.compile(rf"{NAME}(?:/{NAME})*")
LAYOUT = {"F64": (8, 11, 52), "F32": (4, 8, 23), "F16": (2, 5, 10), "BF16": (2, 8, 7)}


class Numbers:
    """A stored tensor. A float is read as an integer times a power of two."""

    def __init__(self, kind: str, shape: list[int], data: memoryview):
        self.kind, self.shape, self.data = kind, shape, data

    @property
    def lines(self) -> int:
        """The number of rows along the last axis, over all other axes."""
        return prod(self.shape[:-1])

    def pairs(self, line: int) -> list[tuple[int, int] | None]:
        """Integer and exponent of every number of a row; None for minus infinity."""
        size, exponent_bits, digit_bits = LAYOUT[self.kind]
        width = self.shape[-1]
        start = line * width * size
        ones = (1 << exponent_bits) - 1
        bias = (ones >> 1) + digit_bits
        found: list[tuple[int, int] | None] = []
        for place in range(start, start + width * size, size):
            raw = int.from_bytes(self.data[place : place + size], "little")
            digits = raw & ((1 << digit_bits) - 1)
            exponent = (raw >> digit_bits) & ones
            negative = raw >> (digit_bits + exponent_bits)
            if exponent == ones:
                need(negative == 1 and digits == 0, "NaN or infinity")
                found.append(None)
                continue
            if exponent:
                digits += 1 << digit_bits
            found.append((-digits if negative else digits, max(exponent, 1) - bias))
        return found

    def has_infinite(self) -> bool:
        """Whether some exponent has all bits set, which no finite number has."""
        size, exponent_bits, digit_bits = LAYOUT[self.kind]
        mask = ((1 << exponent_bits) - 1) << (digit_bits - 8 * (size - 2))
        high, low = self.data[size - 1 :: size], self.data[size - 2 :: size]
        return any((a << 8 | b) & mask == mask for a, b in zip(high, low, strict=True))

    def finite(self, line: int) -> list[tuple[int, int]]:
        """The same where minus infinity is refused."""
        found = [pair for pair in self.pairs(line) if pair is not None]
        need(len(found) == self.shape[-1], "minus infinity")
        return found

    def integers(self, line: int) -> tuple[list[int], int]:
        """A row as integers, and the power of two that they have to be multiplied by."""
        pairs = self.finite(line)
        least = min((e for m, e in pairs if m), default=0)
        return [m << (e - least) if m else 0 for m, e in pairs], least

    def exact(self, line: int = 0) -> list[Fraction]:
        """A row as fractions."""
        return [m * Fraction(2) ** e for m, e in self.finite(line)]


def tensors_of(raw: bytes) -> dict[str, Numbers]:
    """The tensors of a file, which cover its data."""
    need(len(raw) >= 8, "a file of tensors is too short")
    end = 8 + int.from_bytes(raw[:8], "little")
    need(end <= len(raw) and end - 8 <= 64 << 10, "the header is too long")
    need(raw[8:9] == b"{" and raw[8:end].isascii(), "the header is no ASCII object")
    header = Reader(raw[8:end].decode("ascii"), spaced=False).whole()
    need(bool(header), "the header is empty")
    found, at = {}, 0
    body = memoryview(raw)[end:]
    entries = [
        (name, *object_with(entry, "dtype", "shape", "data_offsets"))
        for name, entry in header.items()
    ]
    need(all(len(listed(offsets)) == 2 for *_, offsets in entries), "two offsets are needed")
    for name, kind, shape, (start, stop) in sorted(entries, key=lambda entry: str(entry[3][0])):
        integer(start), integer(stop), text(kind)
        need(re.fullmatch(NAME, name) is not None and kind in LAYOUT, "a name or type is refused")
        sizes = [integer(size, least=1) for size in listed(shape)]
        need(1 <= len(sizes) <= 8, "a tensor has one to eight axes")
        found[name] = start, stop, Numbers(kind, sizes, body[start:stop] if start >= 0 else body)
    for start, stop, part in sorted(found.values(), key=lambda entry: entry[:2]):
        need(start == at, "tensors leave a gap or overlap")
        at = stop
        need(stop - start == prod(part.shape) * LAYOUT[part.kind][0], "a size does not fit")
    need(at == len(body), "bytes that belong to no tensor")
    return {name: part for name, (_, _, part) in found.items()}


def subject_of(entries: Any, folder: Path, roles: list[str]) -> dict[str, Numbers]:
    """The tensors of the subject by role, once type, shape and hash are as stated."""
    found, opened = {}, {}
    names = "role", "file", "tensor", "dtype", "shape", "sha256"
    rows = [object_with(entry, *names) for entry in listed(entries)]
    need([row[0] for row in rows] == roles, f"the roles are not {', '.join(roles)}")
    for role, file, tensor, kind, shape, digest in rows:
        need(len(text(file)) <= 1000 and PATH.fullmatch(file) is not None, "no plain path")
        if file not in opened:
            path = folder
            for part in file.split("/"):
                path = path / part
                need(not os.path.islink(path), "a path goes through a link")
            opened[file] = tensors_of(regular(path, 256 * MIB))
        part = opened[file].get(text(tensor))
        if part is None:
            raise Refused("a tensor is missing")
        sizes = [integer(size) for size in listed(shape)]
        need((kind, sizes) == (part.kind, part.shape), "a type or shape is another one")
        need(hashlib.sha256(part.data).hexdigest() == digest, "a tensor has other bytes")
        if part.has_infinite():
            need(role == "log_decay", "NaN or infinity")
            for line in range(part.lines):
                part.pairs(line)  # refuses all but minus infinity
        found[role] = part
    return found


# --- exponentials ----------------------------------------------------------------------------

ONE = 1 << FIXED


def ceiling(above: int, below: int) -> int:
    """The quotient rounded up."""
    return -(-above // below)


def inverse_tangent(below: int) -> tuple[int, int]:
    """Bounds of the hyperbolic inverse tangent of 1 / below, in units of 2^-FIXED."""
    low = high = k = 0
    power = below
    while ONE // power:
        low += ONE // (power * (2 * k + 1))
        high += ceiling(ONE, power * (2 * k + 1))
        power, k = power * below * below, k + 1
    return low, high + 2


def logarithm_of_two() -> tuple[int, int]:
    """log 2 = 18 atanh(1/26) - 2 atanh(1/4801) + 8 atanh(1/8749)."""
    a, b, c = (inverse_tangent(n) for n in (26, 4801, 8749))
    return 18 * a[0] - 2 * b[1] + 8 * c[0], 18 * a[1] - 2 * b[0] + 8 * c[1]


LOG_TWO = logarithm_of_two()


def exponential(x: Fraction) -> tuple[Fraction, Fraction | None]:
    """Bounds of e^x; the upper one is None where x is beyond what has to be enclosed.

    With x = k log 2 + r it is 2^k e^r, and e^r is the sum of its series.
    """
    if x == 0:
        return Fraction(1), Fraction(1)
    if x < -REACH:
        return Fraction(0), exponential(Fraction(-REACH))[1]
    if x > REACH:
        return exponential(Fraction(REACH))[0], None
    low = (x.numerator << FIXED) // x.denominator
    high = ceiling(x.numerator << FIXED, x.denominator)
    k = low // LOG_TWO[1]
    rests = low - max(k * LOG_TWO[0], k * LOG_TWO[1]), high - min(k * LOG_TWO[0], k * LOG_TWO[1])
    scale = Fraction(2) ** (k - FIXED)
    least, most = series(max(rests[0], 0), up=False) * scale, series(rests[1], up=True) * scale
    return (least, min(most, Fraction(1))) if x < 0 else (max(least, Fraction(1)), most)


def series(x: int, *, up: bool) -> int:
    """e^x for 0 <= x < 2 in units of 2^-FIXED, rounded down or up."""
    term, total, n = ONE, ONE, 1
    while term > 1:
        term = ceiling(term * x, n << FIXED) if up else term * x // (n << FIXED)
        total, n = total + term, n + 1
    return total + 2 if up else total


def soft(x: Fraction) -> tuple[Fraction, Fraction]:
    """Bounds of log(1 + e^x)."""
    if x > REACH // 2:
        return x, x + Fraction(1, ONE)
    low, high = exponential(x)
    if high is None:
        raise Refused("an exponential is too large")
    return logarithm(low)[0], logarithm(high)[1]


def logarithm(t: Fraction) -> tuple[Fraction, Fraction]:
    """Bounds of log(1 + t) for t >= 0: k log 2 + 2 atanh((m - 1) / (m + 1)), 1 + t = 2^k m."""
    if t < Fraction(1, 1 << 150):
        return t - t * t / 2, t
    k = max(0, (1 + t).__floor__().bit_length() - 1)
    ratio = ((1 + t) / (1 << k) - 1) / ((1 + t) / (1 << k) + 1)
    low = (ratio.numerator << FIXED) // ratio.denominator
    high = ceiling(ratio.numerator << FIXED, ratio.denominator)
    ends = (
        k * LOG_TWO[0] + 2 * odd_series(low, up=False),
        k * LOG_TWO[1] + 2 * odd_series(high, up=True),
    )
    return Fraction(ends[0], ONE), Fraction(ends[1], ONE)


def odd_series(x: int, *, up: bool) -> int:
    """x + x^3 / 3 + x^5 / 5 + ... for 0 <= x <= 1/2 in units of 2^-FIXED."""
    square = ceiling(x * x, ONE) if up else x * x // ONE
    power, total, n = x, 0, 1
    while power > 1:
        total += ceiling(power, n) if up else power // n
        power = ceiling(power * square, ONE) if up else power * square // ONE
        n += 2
    return total + 4 if up else total


def at_most(x: Fraction, bound: Fraction) -> bool:
    """Whether e^x is shown to be at most ``bound``."""
    high = exponential(x)[1]
    return high is not None and high <= bound


def beyond(x: Fraction, bound: Fraction) -> bool:
    """Whether e^x is shown to be above ``bound``."""
    return exponential(x)[0] > bound


# --- linear algebra --------------------------------------------------------------------------


def invertible(matrix: list[list[int]]) -> bool:
    """Whether a determinant is other than zero modulo one of the two primes of the format."""
    return any(modular(matrix, (1 << bits) - 1) for bits in (61, 89))


def modular(matrix: list[list[int]], prime: int) -> bool:
    """Whether the determinant is not zero modulo ``prime``, without a division."""
    rest = [[value % prime for value in row] for row in matrix]
    while rest:
        pivot = next((row for row in rest if row[0]), None)
        if pivot is None:
            return False
        rest.remove(pivot)
        rest = [
            [(pivot[0] * b - row[0] * a) % prime for a, b in zip(pivot[1:], row[1:], strict=True)]
            if row[0]
            else row[1:]
            for row in rest
        ]
    return True


# --- claims ----------------------------------------------------------------------------------


class Stated:
    """What a file states beside its claim's name: verdict, tensors, parameters, and evidence."""

    def __init__(self, verdict: str, subject: dict[str, Numbers], **parts: Any):
        self.proved, self.subject = verdict == "PROVED", subject
        self.parameters: dict[str, Any] = parts["parameters"]
        self.evidence: Any = parts["evidence"]
        self.witness: Any = parts["witness"]

    def key(self) -> Numbers:
        """The keys, which have two axes."""
        key = self.subject["key"]
        need(len(key.shape) == 2, "keys have two axes")
        return key

    def proof(self, *names: str) -> list[Any]:
        """The fields of the evidence; beside a refutation there are none."""
        need(self.witness is None, "a witness beside a proof")
        return object_with(self.evidence, *names)

    def case(self, *names: str) -> list[Any]:
        """The fields of the witness."""
        object_with(self.evidence)
        return object_with(self.witness, *names)

    def box(self) -> list[tuple[Fraction, Fraction]]:
        """The sides of the box."""
        lower, upper = self.subject["lower"], self.subject["upper"]
        need(len(lower.shape) == 1 and lower.shape == upper.shape, "the bounds do not fit")
        sides = list(zip(lower.exact(), upper.exact(), strict=True))
        need(all(a <= b for a, b in sides), "the box is empty")
        stated = [number(end) for end in listed(self.parameters["box"])]
        ends = [min(a for a, _ in sides), max(b for _, b in sides)]
        need(stated == ends, "the range of the box is another one")
        return sides

    def point(self, value: Any) -> list[Fraction]:
        """A witness between the bounds of the box."""
        found = [number(part) for part in listed(value)]
        sides = self.box()
        need(len(found) == len(sides), "the witness has another width")
        need(all(a <= x <= b for x, (a, b) in zip(found, sides, strict=True)), "outside the box")
        return found


def every_row(stated: Stated, breaks: Callable[[int], bool]) -> None:
    """A statement about all rows of a map, or the refutation by one of them."""
    part = stated.subject["map"]
    need(len(part.shape) >= 2, "a map has two axes or more")
    if stated.proved:
        stated.proof()
        need(not any(map(breaks, range(part.lines))), "a row breaks the claim")
        return
    batch, row = stated.case("batch", "row")
    places = [*listed(batch), row]
    need(len(places) == len(part.shape) - 1, "the witness has another number of places")
    line = 0
    for place, size in zip(places, part.shape, strict=False):
        line = line * size + integer(place, 0, size)
    need(breaks(line), "the witness keeps the claim")


def square_size(part: Numbers) -> int:
    """The number of tokens of a map with as many rows as columns."""
    need(len(part.shape) >= 2 and part.shape[-1] == part.shape[-2], "the map is not square")
    return part.shape[-1]


def nonnegative(stated: Stated) -> None:
    """No number is below zero."""
    part = stated.subject["map"]
    every_row(stated, lambda line: any(m < 0 for m, _ in part.finite(line)))


def causal(stated: Stated) -> None:
    """Zeros behind the diagonal."""
    part = stated.subject["map"]
    steps = square_size(part)
    every_row(
        stated,
        lambda line: any(m and j > line % steps for j, (m, _) in enumerate(part.finite(line))),
    )


def row_sums(stated: Stated) -> None:
    """Sums within a tolerance of a target."""
    target, tolerance = (number(stated.parameters[name]) for name in ("target", "tolerance"))
    need(tolerance >= 0, "the tolerance is below zero")

    def off(line: int) -> bool:
        values, power = stated.subject["map"].integers(line)
        total = sum(values) * Fraction(2) ** power
        return not target - tolerance <= total <= target + tolerance

    every_row(stated, off)


def window_mass(stated: Stated) -> None:
    """A share of every row on its last columns."""
    part = stated.subject["map"]
    steps = square_size(part)
    width, share = integer(stated.parameters["width"], 1), number(stated.parameters["share"])
    need(0 <= share <= 1, "the share lies outside 0 ... 1")

    def short(line: int) -> bool:
        values, _ = part.integers(line)
        lags = [line % steps - column for column in range(steps)]
        kept = sum(abs(v) for v, lag in zip(values, lags, strict=True) if 0 <= lag < width)
        return kept * share.denominator < share.numerator * sum(map(abs, values))

    every_row(stated, short)


def same_map(stated: Stated) -> None:
    """The sum of squared differences."""
    one, other = stated.subject["map"], stated.subject["other"]
    tolerance = number(stated.parameters["tolerance"])
    need(one.shape == other.shape and len(one.shape) >= 2, "the maps have different shapes")
    need(tolerance >= 0, "the tolerance is below zero")
    energy = Fraction(0)
    for line in range(one.lines):
        (a, p), (b, q) = one.integers(line), other.integers(line)
        least = min(p, q)
        left, right = p - least, q - least
        total = sum(((x << left) - (y << right)) ** 2 for x, y in zip(a, b, strict=True))
        energy += total * Fraction(4) ** least
    if stated.proved:
        stated.proof()
        need(energy <= tolerance**2, "the maps lie further apart")
    else:
        (claimed,) = stated.case("energy")
        need(number(claimed) == energy > tolerance**2, "the maps lie within the tolerance")


class Weights:
    """The map of a stored system, row by row: what a row reads is carried back to earlier tokens.

    A number is an integer and the exponent of a power of two.
    """

    def __init__(self, stated: Stated, prefix: str, read: Any):
        self.parts = {name: stated.subject[prefix + name] for name in SYSTEM}
        B, C = self.parts["B"], self.parts["C"]
        need(len(B.shape) == 3 and len(C.shape) == 3, "B and C have three axes")
        self.steps, self.states, self.inputs = B.shape
        self.outputs = C.shape[1]
        steps, states = self.steps, self.states
        need(C.shape == [steps, self.outputs, states], "C has another shape")
        need(self.parts["D"].shape == [steps, self.outputs, self.inputs], "D has another shape")
        A, left = self.parts["A"], self.parts["left"]
        need(A.shape in ([steps, states], [steps, states, states]), "A has another shape")
        need(len(left.shape) == 3 and left.shape[:2] == [steps, states], "left has another shape")
        need(left.shape == self.parts["right"].shape, "right has another shape")
        need(text(read) in ("before", "after"), "read neither before nor after the update")
        self.late = read == "before"
        need(steps * states * states * left.shape[2] <= 1 << 22, "too much work")
        self.stored = {name: scaled_whole(part) for name, part in self.parts.items()}
        self.steps_of_A = [self.transition(t) for t in range(steps)]
        filled = sum(1 for token in self.steps_of_A for row in token for v in row if v)
        need(steps * self.inputs * (filled + self.outputs * states) <= 1 << 22, "too much work")
        need(steps * -self.power <= 1 << 17, "too much work")

    @property
    def power(self) -> int:
        """The exponent that the integers of all transitions share, at most zero."""
        update = self.stored["left"][1] + self.stored["right"][1]
        return min(self.stored["A"][1], update)

    def transition(self, t: int) -> list[list[int]]:
        """A_t + L_t R_tᵀ as integers over the common power."""
        (A, own), (L, p), (R, q) = (self.stored[name] for name in ("A", "left", "right"))
        N, full = self.states, len(self.parts["A"].shape) == 3
        found = []
        for m in range(N):
            row = []
            for n in range(N):
                value = A[t * N + m][n] if full else (A[t][m] if m == n else 0)
                update = sum(a * b for a, b in zip(L[t * N + m], R[t * N + n], strict=True))
                row.append((value << (own - self.power)) + (update << (p + q - self.power)))
            found.append(row)
        return found

    def row(self, place: int) -> tuple[list[int], int]:
        """One row as integers, and the exponent of its power of two."""
        t, out = divmod(place, self.outputs)
        (B, b), (C, c), (D, d) = (self.stored[name] for name in "BCD")
        entries: list[tuple[int, int]] = [(0, 0)] * (self.steps * self.inputs)
        for port in range(self.inputs):
            entries[t * self.inputs + port] = D[place][port], d
        carried, exponent = list(C[t * self.outputs + out]), c
        token = t - 1 if self.late else t
        while token >= 0:
            for port in range(self.inputs):
                value = sum(
                    carried[n] * B[token * self.states + n][port] for n in range(self.states)
                )
                at = token * self.inputs + port
                entries[at] = plus(entries[at], (value, exponent + b))
            A = self.steps_of_A[token]
            carried = [
                sum(carried[m] * A[m][n] for m in range(self.states) if carried[m] and A[m][n])
                for n in range(self.states)
            ]
            exponent += self.power
            token -= 1
        least = min(power for _, power in entries)
        return [value << (power - least) for value, power in entries], least

    @property
    def rows(self) -> int:
        """How many rows the map has."""
        return self.steps * self.outputs


SYSTEM = (*"ABCD", "left", "right")


def plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The sum of two integers times powers of two."""
    least = min(one[1], other[1])
    return (one[0] << (one[1] - least)) + (other[0] << (other[1] - least)), least


def scaled_whole(part: Numbers) -> tuple[list[list[int]], int]:
    """All rows as integers over one power of two, whose exponent is at most zero."""
    rows = [part.finite(line) for line in range(part.lines)]
    odd = [e + (m & -m).bit_length() - 1 for row in rows for m, e in row if m]
    least = min([0, *odd])
    return [
        [m << (e - least) if e >= least else m >> (least - e) for m, e in row] for row in rows
    ], least


def system_nonnegative(stated: Stated) -> None:
    """Every weight is at least zero, or one is not."""
    weights = Weights(stated, "", stated.parameters["read"])
    if stated.proved:
        stated.proof()
        need(all(min(weights.row(k)[0]) >= 0 for k in range(weights.rows)), "a weight is negative")
        return
    column, row = stated.case("column", "row")
    at = integer(column, 0, weights.steps * weights.inputs)
    need(weights.row(integer(row, 0, weights.rows))[0][at] < 0, "the weight is not negative")


def system_row_sums(stated: Stated) -> None:
    """Every row sums to the target, or one does not."""
    weights = Weights(stated, "", stated.parameters["read"])
    target, tolerance = (number(stated.parameters[name]) for name in ("target", "tolerance"))
    need(tolerance >= 0, "the tolerance is below zero")

    def within(place: int) -> bool:
        values, power = weights.row(place)
        return abs(Fraction(sum(values), 1 << -power) - target) <= tolerance

    if stated.proved:
        stated.proof()
        need(all(within(k) for k in range(weights.rows)), "a row sums to something else")
        return
    (row,) = stated.case("row")
    need(not within(integer(row, 0, weights.rows)), "the row sums to the target")


def same_system(stated: Stated) -> None:
    """The sum of the squared differences of two maps."""
    one = Weights(stated, "", stated.parameters["read"])
    other = Weights(stated, "other_", stated.parameters["other_read"])
    tolerance = number(stated.parameters["tolerance"])
    need(tolerance >= 0, "the tolerance is below zero")
    shapes = [(part.rows, part.steps * part.inputs) for part in (one, other)]
    need(shapes[0] == shapes[1], "the maps have different shapes")
    energy = Fraction(0)
    for place in range(one.rows):
        (a, p), (b, q) = one.row(place), other.row(place)
        least = min(p, q)
        pairs = zip(a, b, strict=True)
        total = sum(((x << (p - least)) - (y << (q - least))) ** 2 for x, y in pairs)
        energy += Fraction(total, 1 << -2 * least)
    if stated.proved:
        stated.proof()
        need(energy <= tolerance**2, "the maps lie further apart")
    else:
        (least,) = stated.case("energy")
        need(tolerance**2 < number(least) <= energy, "the maps lie within the tolerance")


def injective(stated: Stated) -> None:
    """The rank of the keys with a column of ones, or a direction that no key sees."""
    key = stated.key()
    tokens, width = key.shape
    first, sink = integer(stated.parameters["first_row"], 0, tokens), stated.parameters["sink"]
    need(isinstance(sink, bool), "sink is neither true nor false")
    if stated.proved:
        (places,) = stated.proof("rows")
        columns = width if sink else width + 1
        need(columns**3 * 89 <= 1 << 34, "too much work")
        lines = chosen(places, first + 1)
        need(len(lines) == columns, "another number of rows is needed")
        need(invertible([extended(key, line, not sink) for line in lines]), "dependent rows")
        return
    row, null = stated.case("row", "null")
    last = integer(row, first, tokens)
    direction = [integer(part) for part in listed(null)]
    if not direction:
        need(last + 1 < (width if sink else width + 1), "the keys are not fewer than the columns")
        return
    need(len(direction) == width + 1 and any(direction[:width]), "no direction of the query")
    need(not sink or direction[width] == 0, "a sink admits no constant")
    for line in range(last + 1):
        moved = zip(extended(key, line, True), direction, strict=True)
        need(sum(a * b for a, b in moved) == 0, "the witness moves a score")


def injective_masked(stated: Stated) -> None:
    """The rank of the keys that each row of the mask shows, in rows that show enough."""
    key, mask = stated.key(), stated.subject["mask"]
    tokens, width = key.shape
    need(len(mask.shape) == 2 and mask.shape[1] == tokens, "the mask does not fit the keys")
    sink, least = stated.parameters["sink"], integer(stated.parameters["least"], 1)
    need(isinstance(sink, bool), "sink is neither true nor false")
    columns = width if sink else width + 1
    need(least >= columns, "rows with too few keys are claimed")
    bits = [mask.exact(line) for line in range(mask.shape[0])]

    def shows(line: int) -> list[int]:
        need(all(bit in (0, 1) for bit in bits[line]), "a mask holds zeros and ones")
        return [place for place, bit in enumerate(bits[line]) if bit]

    if stated.proved:
        sets, numbers = stated.proof("sets", "chosen")
        bases = [chosen(places, tokens) for places in listed(sets)]
        need(all(len(base) == columns for base in bases), "a set has another size")
        need(len(bases) * columns**3 * 89 <= 1 << 34, "too much work")
        for base in bases:
            need(invertible([extended(key, line, not sink) for line in base]), "dependent keys")
        need(len(listed(numbers)) == mask.shape[0], "one set for every row is needed")
        shown = [shows(line) for line in range(mask.shape[0])]
        claimed = [line for line in range(mask.shape[0]) if len(shown[line]) >= least]
        need(bool(claimed), "no row shows enough keys")
        for line, number_ in enumerate(numbers):
            integer(number_)
            if line in claimed:
                base = bases[integer(number_, 0, len(bases))]
                need(set(base) <= set(shown[line]), "a row hides a key of its set")
        return
    row, null = stated.case("row", "null")
    seen = shows(integer(row, 0, mask.shape[0]))
    direction = [integer(part) for part in listed(null)]
    need(len(seen) >= least, "the row is not claimed")
    need(len(direction) == width + 1 and any(direction[:width]), "no direction of the query")
    need(not sink or direction[width] == 0, "a sink admits no constant")
    for line in seen:
        moved = zip(extended(key, line, True), direction, strict=True)
        need(sum(a * b for a, b in moved) == 0, "the witness moves a score")


def extended(key: Numbers, line: int, constant: bool) -> list[int]:
    """A row of keys, with a one appended, times the power of two that makes it whole."""
    values, power = key.integers(line)
    if power > 0:
        values, power = [value << power for value in values], 0
    return [*values, 1 << -power] if constant else values


def chosen(places: Any, below: int) -> list[int]:
    """Increasing places."""
    found = [integer(place, 0, below) for place in listed(places)]
    need(found == sorted(set(found)), "places must increase")
    return found


def margin(stated: Stated) -> None:
    """The smallest singular value is at least the bound."""
    bound = number(stated.parameters["bound"])
    need(bound > 0, "the bound is not above zero")
    spare, energy = residual(stated, bound)
    need(spare >= 0 and spare**2 >= energy, "the residual leaves no such bound")


def injective_within(stated: Stated) -> None:
    """The smallest singular value is above the distance, or nearby keys miss a direction."""
    distance = number(stated.parameters["distance"])
    need(distance >= 0, "the distance is below zero")
    if not stated.proved:
        nearby(stated, distance)
        return
    spare, energy = residual(stated, distance)
    need(spare > 0 and spare**2 > energy, "the residual leaves no such distance")


def nearby(stated: Stated, distance: Fraction) -> None:
    """A direction that moves the scores of the keys by at most the distance times its length."""
    key = stated.key()
    tokens, width = key.shape
    first = integer(stated.parameters["first_row"], 0, tokens)
    row, null = stated.case("row", "null")
    last = integer(row, first, tokens)
    direction = [integer(part) for part in listed(null)]
    if not direction:
        need(last < width, "the keys are not fewer than the columns")
        return
    need(len(direction) == width + 1 and any(direction[:width]), "no direction of the query")
    limit = distance * distance * sum(part * part for part in direction[:width])
    for line in range(last + 1):
        moved = sum(a * b for a, b in zip(extended(key, line, True), direction, strict=True))
        limit -= Fraction(moved * moved) * Fraction(4) ** min(key.integers(line)[1], 0)
    need(limit >= 0, "the scores move by more than the distance allows")


def residual(stated: Stated, bound: Fraction) -> tuple[Fraction, Fraction]:
    """shift² - bound² and the squared norm of the residual, entry by entry."""
    key, factor = stated.key(), stated.subject["factor"]
    tokens, width = key.shape
    first = integer(stated.parameters["first_row"], 0, tokens)
    places, shift = stated.proof("rows", "shift")
    lines, moved = chosen(places, first + 1), number(shift)
    size = width + 1
    need(factor.shape == [size, size], "the factor has another size")
    need(0 < len(lines) * size * size * 64 <= 1 << 34, "no rows, or too many")
    columns, unit = aligned([(extended(key, line, True), key.integers(line)[1]) for line in lines])
    others, other_unit = aligned([factor.integers(line) for line in range(size)])
    energy = Fraction(0)
    for i, j in product(range(size), repeat=2):
        if i > j:
            continue
        gram = sum(a * b for a, b in zip(columns[i], columns[j], strict=True))
        cast = sum(a * b for a, b in zip(others[i], others[j], strict=True))
        entry = gram * Fraction(4) ** unit - cast * Fraction(4) ** other_unit
        energy += (1 if i == j else 2) * (entry - (moved**2 if i == j else 0)) ** 2
    return moved**2 - bound**2, energy


def aligned(rows: Iterable[tuple[list[int], int]]) -> tuple[list[list[int]], int]:
    """The columns of rows of integers over one power of two, and its exponent."""
    rows = [(values, min(power, 0)) for values, power in rows]
    least = min(power for _, power in rows)
    raised = [[value << (power - least) for value in values] for values, power in rows]
    return [list(column) for column in zip(*raised, strict=True)], least


def linear_injective(stated: Stated) -> None:
    """Two queries whose features are proportional."""
    key = stated.key()
    tokens, width = key.shape
    name = text(stated.parameters["feature_map"])
    need(name in ("identity", "relu", "elu_plus_one"), "the feature map is unknown")
    need(not stated.proved, "this claim can only be refuted")
    query, other, row = stated.case("query", "other", "row")
    last = integer(row, 0, tokens)
    a, b = ([number(part) for part in listed(value)] for value in (query, other))
    need(len(a) == len(b) == width and a != b, "two different queries are needed")
    if name == "elu_plus_one":
        need(min(a + b) >= 0, "a feature is not rational")
    one, two = features(name, a), features(name, b)
    need(any(one) and any(two), "all features are zero")
    minors = (one[i] * two[j] == one[j] * two[i] for i, j in product(range(width), repeat=2))
    need(all(minors), "the features are not proportional")
    if name != "elu_plus_one":
        sums = [features(name, key.exact(line)) for line in range(last + 1)]
        total = sum(x * y for line in sums for x, y in zip(one, line, strict=True))
        need(total != 0, "the weights have no denominator")


def features(name: str, values: list[Fraction]) -> list[Fraction]:
    """The features of a vector; those of elu plus one for numbers of at least zero."""
    if name == "relu":
        return [value if value > 0 else Fraction(0) for value in values]
    return [value + 1 for value in values] if name == "elu_plus_one" else values


def nonexpansive(stated: Stated) -> None:
    """Steps of the delta rule, alone."""
    key, rate = stated.key(), stated.subject["rate"]
    need(rate.shape == key.shape[:1], "one rate for every key is needed")
    steps = [b * squared(key, t) for t, b in enumerate(rate.exact())]
    every_token(stated, [step < 0 or step > 2 for step in steps], None)


def nonexpansive_decayed(stated: Stated) -> None:
    """Steps of the delta rule times their decays."""
    key, rate, logs = stated.key(), stated.subject["rate"], stated.subject["log_decay"]
    need(rate.shape == logs.shape == key.shape[:1], "one rate and decay for every key is needed")
    gains = [abs(1 - b * squared(key, t)) for t, b in enumerate(rate.exact())]
    if key.shape[1] > 1:
        gains = [max(gain, Fraction(1)) for gain in gains]
    pairs = list(zip(gains, logs.exact(), strict=True))
    expanding = [gain > 0 and beyond(g, 1 / gain) for gain, g in pairs]
    every_token(stated, expanding, [gain == 0 or at_most(g, 1 / gain) for gain, g in pairs])


def squared(key: Numbers, line: int) -> Fraction:
    """The squared norm of a key."""
    values, power = key.integers(line)
    return sum(value**2 for value in values) * Fraction(4) ** power


def every_token(stated: Stated, breaks: list[bool], keeps: list[bool] | None) -> None:
    """A statement about all tokens, or the refutation by one of them."""
    if stated.proved:
        stated.proof()
        need(
            all(keeps) if keeps is not None else not any(breaks), "a token is not shown to keep it"
        )
        return
    (token,) = stated.case("token")
    need(breaks[integer(token, 0, len(breaks))], "the witness is not shown to break it")


def decay(stated: Stated) -> None:
    """Products of decays over every window."""
    logs = stated.subject["log_decay"]
    steps = logs.shape[-1]
    width, most = (
        integer(stated.parameters["width"], 1, steps + 1),
        number(stated.parameters["most"]),
    )
    need(most > 0, "the bound is not above zero")
    if not stated.proved:
        batch, token = stated.case("batch", "token")
        axes, line = logs.shape[:-1], 0
        need(len(listed(batch)) == len(axes), "the witness has another number of places")
        for place, size in zip(batch, axes, strict=True):
            line = line * size + integer(place, 0, size)
        first = integer(token, 0, steps - width + 1)
        total = window_sum(logs.pairs(line)[first : first + width])
        need(total is not None and beyond(total, most), "the witness is not shown to break it")
        return
    stated.proof()
    for line in range(logs.lines):
        pairs = logs.pairs(line)
        sums = [window_sum(pairs[t : t + width]) for t in range(steps - width + 1)]
        largest = max((total for total in sums if total is not None), default=None)
        need(largest is None or at_most(largest, most), "a row is not shown to keep it")


def window_sum(pairs: list[tuple[int, int] | None]) -> Fraction | None:
    """The exact sum; None if minus infinity is in it."""
    kept = [pair for pair in pairs if pair is not None]
    if len(kept) < len(pairs):
        return None
    least = min(exponent for _, exponent in kept)
    return sum(m << (e - least) for m, e in kept) * Fraction(2) ** least


def product_norm(stated: Stated) -> None:
    """Products of transitions in fractions, window by window."""
    stated.proof()
    (own, a), (one, p), (other, q) = (
        scaled_whole(stated.subject[name]) for name in ("A", "left", "right")
    )
    shape, width, most = (
        stated.subject["A"].shape,
        integer(stated.parameters["width"], 1),
        number(stated.parameters["most"]),
    )
    need(len(shape) in (2, 3) and most > 0, "no transitions, or no bound")
    steps, states = shape[:2]
    need(tuple(shape[2:]) in ((), (states,)) and width <= steps, "the window does not fit")
    for name in ("left", "right"):
        part = stated.subject[name].shape
        need(len(part) == 3 and tuple(part[:2]) == (steps, states), f"{name} does not fit A")
    need(stated.subject["left"].shape == stated.subject["right"].shape, "left is not as right")
    need(3 * steps * states**3 * 256 <= 1 << 34, "too much work")
    span = range(states)

    def moved(t: int, m: int, n: int) -> Fraction:
        full = len(shape) == 3
        value = own[t * states + m][n] if full else own[t][m] if m == n else 0
        update = sum(x * y for x, y in zip(one[t * states + m], other[t * states + n], strict=True))
        return value * Fraction(2) ** a + update * Fraction(2) ** (p + q)

    moving = [[[moved(t, m, n) for n in span] for m in span] for t in range(steps)]
    for first in range(steps - width + 1):
        whole = moving[first]
        for t in range(first + 1, first + width):
            whole = [[sum(moving[t][m][k] * whole[k][n] for k in span) for n in span] for m in span]
        gram = [[sum(whole[k][m] * whole[k][n] for k in span) for n in span] for m in span]
        left = [[most**2 * (m == n) - gram[m][n] for n in span] for m in span]
        for k in span:  # pivots of a symmetric matrix
            need(left[k][k] > 0, f"the product from token {first} on is too large")
            for i in range(k + 1, states):
                part = left[i][k] / left[k][k]
                left[i] = [x - part * y for x, y in zip(left[i], left[k], strict=True)]


def decay_box(stated: Stated) -> None:
    """The decay at the worst corner, or at a point of the box."""
    weight, bias, rate = (stated.subject[name] for name in ("weight", "bias", "rate"))
    width, most = integer(stated.parameters["width"], 1), number(stated.parameters["most"])
    sides = stated.box()
    need(weight.shape == [len(sides)] and bias.shape == rate.shape == [1], "sizes do not fit")
    (offset,), (speed,) = bias.exact(), rate.exact()
    need(most > 0 and speed >= 0, "the bound or the rate is out of range")
    factors = weight.exact()
    if stated.proved:
        stated.proof()
        least = offset + sum(min(w * a, w * b) for w, (a, b) in zip(factors, sides, strict=True))
        need(at_most(-width * speed * soft(least)[0], most), "the corner is not shown to keep it")
    else:
        (where,) = stated.case("input")
        point = stated.point(where)
        drive = offset + sum(w * x for w, x in zip(factors, point, strict=True))
        need(beyond(-width * speed * soft(drive)[1], most), "the witness is not shown to break it")


def locality(stated: Stated) -> None:
    """The weight on a window of keys, over a box of queries."""
    key, sides = stated.key(), stated.box()
    tokens, width = key.shape
    share, scale = number(stated.parameters["share"]), number(stated.parameters["scale"])
    window = listed(stated.parameters["window"])
    need(len(window) == 2 and width == len(sides) and 0 < share < 1, "out of range")
    stop = integer(window[1], 1, tokens + 1)
    start = integer(window[0], 0, stop)
    rows = [[scale * part for part in key.exact(line)] for line in range(tokens)]
    near, far = rows[start:stop], rows[:start] + rows[stop:]
    odds = (1 - share) / share
    if not stated.proved:
        (where,) = stated.case("query")
        query = stated.point(where)
        inner, outer = (
            [sum(a * b for a, b in zip(row, query, strict=True)) for row in side]
            for side in (near, far)
        )
        top = max(inner + outer)
        above = sum_up(Fraction(score) - top for score in inner)
        below = sum((exponential(Fraction(score) - top)[0] for score in outer), Fraction(0))
        need(above is not None and below > odds * above, "the witness is not shown to break it")
        return
    (tree,) = stated.proof("tree")
    budget = 1 << 20
    stack = [(tree, sides)]
    while stack:
        node, box = stack.pop()
        if isinstance(node, dict) and "axis" in node:
            axis, low, high = object_with(node, "axis", "low", "high")
            k = integer(axis, 0, width)
            half = (box[k][0] + box[k][1]) / 2
            stack.append((low, [*box[:k], (box[k][0], half), *box[k + 1 :]]))
            stack.append((high, [*box[:k], (half, box[k][1]), *box[k + 1 :]]))
            continue
        budget -= tokens * width
        need(budget >= 0, "the tree has too many leaves")
        logs, shares = object_with(node, "log_p", "p")
        weights = [number(part) for part in listed(shares)]
        heights = [number(part) for part in listed(logs)]
        need(len(weights) == len(heights) == len(near), "a leaf has another number of weights")
        need(sum(weights) == 1 and min(weights) >= 0, "the weights of a leaf are no shares")
        highs = zip(weights, heights, strict=True)
        need(all(exponential(h)[0] >= p for p, h in highs if p), "a logarithm is too small")
        total = sum_up(leaf_exponents((near, far), box, weights, heights))
        need(total is not None and total <= odds, "a leaf does not reach the share")


def leaf_exponents(
    keys: tuple[list[list[Fraction]], list[list[Fraction]]],
    box: list[tuple[Fraction, Fraction]],
    weights: list[Fraction],
    heights: list[Fraction],
) -> Iterator[Fraction]:
    """The exponent of every key outside the window at its worst point of the box.

    It is that of the line through the mean key: the maximum of (key - mean) . query over the box is
    taken coordinate by coordinate at the better end.
    """
    near, far = keys
    mean = [sum(p * row[k] for p, row in zip(weights, near, strict=True)) for k in range(len(box))]
    entropy = -sum(p * h for p, h in zip(weights, heights, strict=True))
    for row in far:
        slopes = [part - Fraction(centre) for part, centre in zip(row, mean, strict=True)]
        worst = sum(max(s * a, s * b) for s, (a, b) in zip(slopes, box, strict=True))
        yield Fraction(worst) - entropy


def sum_up(exponents: Iterable[Fraction]) -> Fraction | None:
    """An upper bound of the sum of exponentials; None where there is none."""
    total = Fraction(0)
    for exponent in exponents:
        high = exponential(exponent)[1]
        if high is None:
            return None
        total += high
    return total


# --- layers ----------------------------------------------------------------------------------

PRECISION = 224
"""Bits of the ends of a span."""
FARTHEST = 1 << 12
Exact = tuple[int, int]
"""An integer, and the exponent of the power of two that it is multiplied by."""


class Span:
    """All numbers between two integers times one power of two."""

    def __init__(self, low: int, high: int, exponent: int):
        spare = max(low.bit_length(), high.bit_length()) - PRECISION
        if spare > 0:
            low, high, exponent = low >> spare, -(-high >> spare), exponent + spare
        self.low, self.high, self.exponent = low, high, exponent

    @classmethod
    def between(cls, low: Fraction, high: Fraction) -> "Span":
        """The narrowest span around two fractions whose denominators are powers of two."""
        unit = max(low.denominator, high.denominator)
        bottom, top = (end.numerator * (unit // end.denominator) for end in (low, high))
        return cls(bottom, top, 1 - unit.bit_length())

    @property
    def ends(self) -> tuple[Fraction, Fraction]:
        """Both ends as fractions."""
        scale = Fraction(2) ** self.exponent
        return self.low * scale, self.high * scale

    def __mul__(self, other: "Span") -> "Span":
        corners = [a * b for a, b in product((self.low, self.high), (other.low, other.high))]
        return Span(min(corners), max(corners), self.exponent + other.exponent)

    def __neg__(self) -> "Span":
        return Span(-self.high, -self.low, self.exponent)

    def inverse(self) -> "Span":
        """One over a span above zero."""
        places = 2 * PRECISION + self.high.bit_length()
        one = 1 << places
        return Span(one // self.high, ceiling(one, self.low), -places - self.exponent)

    def inverse_root(self) -> "Span":
        """One over the square root of a span above zero."""
        need(self.low > 0, "a vector has no length")
        places = 2 * PRECISION + self.high.bit_length() + self.exponent % 2
        one = 1 << 2 * places - self.exponent % 2
        low, high = isqrt(one // self.high), isqrt(one // self.low) + 1
        return Span(low, high, (self.exponent % 2 - self.exponent) // 2 - places)


def together(spans: Iterable[Span]) -> Span:
    """All sums."""
    found = list(spans)
    least = min((span.exponent for span in found), default=0)
    low, high = (
        sum(end << (span.exponent - least) for span, end in pairs)
        for pairs in (
            [(span, span.low) for span in found],
            [(span, span.high) for span in found],
        )
    )
    return Span(low, high, least)


def inner(one: Iterable[Span], other: Iterable[Span]) -> Span:
    """All inner products."""
    return together(a * b for a, b in zip(one, other, strict=True))


def collected(parts: Iterable[Exact]) -> Exact:
    """The exact sum."""
    found = list(parts)
    least = min((exponent for _, exponent in found), default=0)
    return sum(m << (exponent - least) for m, exponent in found), least


def point(value: Exact) -> Span:
    """The span of one number."""
    return Span(value[0], value[0], value[1])


def fraction(value: Exact) -> Fraction:
    """The same as a fraction."""
    return value[0] * Fraction(2) ** value[1]


def raised(low: Fraction, high: Fraction) -> Span:
    """e^x for all x from ``low`` to ``high``."""
    need(low >= -FARTHEST and high <= FARTHEST, "an exponent is too far out")
    return Span.between(exponential(low)[0], exponential(high)[1] or Fraction(0))


def logistic(value: Exact) -> Span:
    """1 / (1 + e^-z), for z below zero as e^z / (1 + e^z)."""
    size = abs(fraction(value))
    small = raised(-size, -size)
    below = together([Span(1, 1, 0), small]).inverse()
    return below if value[0] >= 0 else small * below


def activated(value: Exact) -> Span:
    """silu."""
    return point(value) * logistic(value)


def softened(span: Span) -> Span:
    """softplus."""
    low, high = span.ends
    need(low >= -FARTHEST and high <= FARTHEST, "an exponent is too far out")
    return Span.between(soft(low)[0], soft(high)[1])


class Parts:
    """The stored tensors of a layer, once their sizes and numbers are within the limits."""

    def __init__(self, stated: Stated, states: str, *matrices: str):
        self.stored = stated.subject
        need(len(self.stored["input"].shape) == 2, "the input has two axes")
        self.tokens, self.model = self.stored["input"].shape
        need(self.tokens <= 64, "too many tokens")
        sizes = sum(prod(part.shape) for part in self.stored.values())
        need(self.tokens * sizes <= 1 << 19, "too many numbers")
        for name in matrices:
            need(len(self.stored[name].shape) == 2, "a projection has two axes")
            need(self.tokens * self.stored[name].shape[0] <= 1 << 11, "too many rows")
        self.states = self.stored[states].shape[0] if states else 1
        need(self.tokens**2 * self.states <= 1 << 14, "too many states")
        for part in self.stored.values():
            need(
                all(is_moderate(pair) for k in range(part.lines) for pair in part.finite(k)),
                "a number is too large, or too fine",
            )

    def vector(self, name: str, size: int) -> list[Exact]:
        """A tensor with one axis."""
        need(self.stored[name].shape == [size], f"{name} has another shape")
        return self.stored[name].finite(0)

    def scalar(self, name: str) -> Exact:
        """A tensor of one number."""
        return self.vector(name, 1)[0]

    def drive(self, name: str) -> list[Exact]:
        """The inner product of a vector with every token."""
        vector = self.vector(name, self.model)
        return [
            collected((a * b, p + q) for (a, p), (b, q) in zip(vector, token, strict=True))
            for token in map(self.stored["input"].finite, range(self.tokens))
        ]

    def projection(self, name: str, rows: int) -> list[list[Exact]]:
        """A matrix times every token, by token."""
        part = self.stored[name]
        need(part.shape == [rows, self.model], f"{name} has another shape")
        matrix = [part.integers(k) for k in range(rows)]
        found = []
        for t in range(self.tokens):
            token, power = self.stored["input"].integers(t)
            found.append(
                [
                    (sum(a * b for a, b in zip(line, token, strict=True)), own + power)
                    for line, own in matrix
                ]
            )
        return found

    def mixed(self, weight: str, taps: str, bias: str | None, rows: int) -> list[list[Span]]:
        """silu of the convolution of a projection, by token."""
        values = self.projection(weight, rows)
        part = self.stored[taps]
        need(len(part.shape) == 2 and part.shape[0] == rows, f"{taps} has another shape")
        need(part.shape[1] <= 16, "too many taps")
        offsets = self.vector(bias, rows) if bias else [(0, 0)] * rows
        found: list[list[Span]] = [[] for _ in range(self.tokens)]
        for channel, offset in enumerate(offsets):
            weights = part.finite(channel)
            for t in range(self.tokens):
                terms = [offset]
                for lag in range(min(len(weights), t + 1)):
                    (w, p), (v, q) = weights[-1 - lag], values[t - lag][channel]
                    terms.append((w * v, p + q))
                found[t].append(activated(collected(terms)))
        return found

    def applied(self, name: str, rows: int, values: list[list[Span]]) -> list[list[Span]]:
        """A stored matrix times spans, by token."""
        part = self.stored[name]
        need(part.shape == [rows, len(values[0])], f"{name} has another shape")
        matrix = [part.finite(k) for k in range(rows)]
        return [[inner(map(point, line), token) for line in matrix] for token in values]

    def steps(self) -> list[Span]:
        """The step of a head at every token."""
        bias = self.scalar("step_bias")
        return [softened(point(plus(drive, bias))) for drive in self.drive("step_weight")]


def is_moderate(value: Exact) -> bool:
    """Whether a number is a multiple of 2^-256 and below 2^256 in size."""
    m, exponent = value
    trailing = (m & -m).bit_length() - 1
    return not m or (exponent + trailing >= -256 and m.bit_length() + exponent <= 256)


Formed = list[list[Span]]
"""The map of a layer: spans by row, up to the diagonal."""


def passed(speed: Span, steps: list[Span]) -> Span:
    """e^(-speed times the sum of steps)."""
    return raised(*(-(speed * together(steps))).ends) if steps else Span(1, 1, 0)


def speeds_of(logs: list[Exact], steps: list[Span]) -> list[Span]:
    """e^A_log, whose product with all steps is no exponent too far out."""
    speeds = [raised(fraction(log), fraction(log)) for log in logs]
    for speed in speeds:
        passed(speed, steps)
    return speeds


def softmax_attention(stated: Stated) -> Formed:
    """Shares of e^score; each is one over a sum of exponentials of differences."""
    parts = Parts(stated, "", "key_weight", "query_weight")
    width = parts.stored["query_weight"].shape[0]
    scale = parts.scalar("scale")
    queries, keys = (
        turned(parts, parts.projection(name, width)) for name in ("query_weight", "key_weight")
    )
    rows = []
    for i, query in enumerate(queries):
        scores = []
        for key in keys[: i + 1]:
            m, exponent = collected(
                (a * b, p + q) for (a, p), (b, q) in zip(query, key, strict=True)
            )
            scores.append(fraction((m * scale[0], exponent + scale[1])))
        need(max(scores) - min(scores) <= FARTHEST, "an exponent is too far out")
        rows.append(
            [together(raised(other - own, other - own) for other in scores).inverse()
             for own in scores]
        )  # fmt: skip
    return rows


def turned(parts: Parts, vectors: list[list[Exact]]) -> list[list[Exact]]:
    """The first columns rotated by the stored angles."""
    cos, sin = parts.stored["cos"], parts.stored["sin"]
    need(len(cos.shape) == 2 and cos.shape == sin.shape, "the angles have another shape")
    tokens, turning = cos.shape
    need(tokens == parts.tokens and turning % 2 == 0, "the angles have another shape")
    need(turning <= len(vectors[0]), "there are more angles than columns")
    found = []
    for t, vector in enumerate(vectors):
        c, s = cos.finite(t), sin.finite(t)
        now = list(vector)
        for k in range(turning):
            far = k + turning // 2 if k < turning // 2 else k - turning // 2
            sign = -1 if k < turning // 2 else 1
            (v, p), (w, q) = vector[k], vector[far]
            now[k] = plus((v * c[k][0], p + c[k][1]), (sign * w * s[k][0], q + s[k][1]))
        found.append(now)
    return found


def selective_state_space(stated: Stated) -> Formed:
    """One channel, every state of which decays by itself."""
    parts = Parts(stated, "A_log", "input_weight", "read_weight", "step_down_weight")
    states, channels = parts.states, parts.stored["input_weight"].shape[0]
    names = "input_weight", "convolution_weight", "convolution_bias"
    values = parts.mixed(*names, channels)
    rank = parts.stored["step_down_weight"].shape[0]
    up, bias = parts.vector("step_up_weight", rank), point(parts.scalar("step_bias"))
    steps = [
        softened(together([inner(map(point, up), down), bias]))
        for down in parts.applied("step_down_weight", rank, values)
    ]
    speeds = speeds_of(parts.vector("A_log", states), steps)
    reads, writes = (
        parts.applied(name, states, values) for name in ("read_weight", "write_weight")
    )
    through = point(parts.scalar("D"))
    rows = []
    for i, read in enumerate(reads):
        row = []
        for j, write in enumerate(writes[: i + 1]):
            kept = [passed(speed, steps[j + 1 : i + 1]) for speed in speeds]
            total = steps[j] * inner(read, [a * b for a, b in zip(kept, write, strict=True)])
            row.append(together([total, through]) if i == j else total)
        rows.append(row)
    return rows


def state_space_duality(stated: Stated) -> Formed:
    """One head, whose states share their decay."""
    parts = Parts(stated, "read_weight", "read_weight", "write_weight")
    reads, writes = (
        parts.mixed(f"{name}_weight", f"{name}_convolution", f"{name}_bias", parts.states)
        for name in ("read", "write")
    )
    steps = parts.steps()
    speeds = speeds_of([parts.scalar("A_log")], steps)
    through = point(parts.scalar("D"))
    rows = [
        [
            inner(read, write) * steps[j] * passed(speeds[0], steps[j + 1 : i + 1])
            for j, write in enumerate(writes[: i + 1])
        ]
        for i, read in enumerate(reads)
    ]
    for row in rows:
        row[-1] = together([row[-1], through])
    return rows


def gated_delta_net(stated: Stated) -> Formed:
    """One head; what a row reads is carried back to earlier tokens."""
    parts = Parts(stated, "read_weight", "read_weight", "write_weight")
    epsilon, scale = parts.scalar("epsilon"), point(parts.scalar("scale"))
    need(epsilon[0] >= 0, "epsilon is below zero")
    reads, keys = (
        [
            unit(token, epsilon)
            for token in parts.mixed(f"{name}_weight", f"{name}_convolution", None, parts.states)
        ]
        for name in ("read", "write")
    )
    rates = [logistic(drive) for drive in parts.drive("rate_weight")]
    steps = parts.steps()
    speeds = speeds_of([parts.scalar("A_log")], steps)
    rows = []
    for i, read in enumerate(reads):
        row, carried = [], read
        for t in range(i, -1, -1):
            seen = rates[t] * inner(carried, keys[t])
            row.append(scale * seen)
            kept = passed(speeds[0], steps[t : t + 1])
            carried = [
                kept * together([part, -(seen * key)])
                for part, key in zip(carried, keys[t], strict=True)
            ]
        rows.append(row[::-1])
    return rows


def unit(values: list[Span], epsilon: Exact) -> list[Span]:
    """A vector over the root of its squared length and epsilon."""
    length = together([*(value * value for value in values), point(epsilon)]).inverse_root()
    return [value * length for value in values]


def of_layer_nonnegative(stated: Stated, formed: Formed) -> None:
    """The sign of every entry, or of one."""
    if stated.proved:
        stated.proof()
        need(all(span.low >= 0 for row in formed for span in row), "not shown: signs")
    else:
        need(entry(stated, formed)[2].high < 0, "the entry is not shown to be below zero")


def entry(stated: Stated, formed: Formed) -> tuple[int, int, Span]:
    """The entry of the witness."""
    column, row = stated.case("column", "row")
    i = integer(row, 0, len(formed))
    j = integer(column, 0, i + 1)
    return i, j, formed[i][j]


def of_layer_row_sums(stated: Stated, formed: Formed) -> None:
    """The sum of every row, or of one."""
    target, tolerance = (number(stated.parameters[name]) for name in ("target", "tolerance"))
    need(tolerance >= 0, "the tolerance is below zero")
    sums = [together(row).ends for row in formed]
    if stated.proved:
        stated.proof()
        off = max(max(target - low, high - target) for low, high in sums)
        need(off <= tolerance, "a row is not shown to sum to the target")
    else:
        (row,) = stated.case("row")
        low, high = sums[integer(row, 0, len(sums))]
        need(max(low - target, target - high) > tolerance, "the row is not shown to be off")


FORMS: dict[str, tuple[Callable[[Stated], Formed], str, str]] = {
    "gated_delta_net": (
        gated_delta_net,
        "A_log epsilon input rate_weight read_convolution read_weight scale step_bias step_weight"
        " write_convolution write_weight",
        "a gated delta rule",
    ),
    "selective_state_space": (
        selective_state_space,
        "A_log D convolution_bias convolution_weight input input_weight read_weight step_bias"
        " step_down_weight step_up_weight write_weight",
        "a selective state-space scan",
    ),
    "softmax_attention": (
        softmax_attention,
        "cos input key_weight query_weight scale sin",
        "softmax attention",
    ),
    "state_space_duality": (
        state_space_duality,
        "A_log D input read_bias read_convolution read_weight step_bias step_weight write_bias"
        " write_convolution write_weight",
        "a state-space scan with one decay for all states",
    ),
}
ABOUT_LAYERS: dict[str, tuple[Callable[[Stated, Formed], None], str, str]] = {
    "nonnegative": (
        of_layer_nonnegative, "", "no weight of the map of {kind} is below zero",
    ),
    "row_sums": (
        of_layer_row_sums, "target tolerance",
        "every row of the map of {kind} sums to {target} within {tolerance}",
    ),
}  # fmt: skip
BEGINNING = "in exact arithmetic, with the stored weights and the stored input, "


def about_layer(
    form: Callable[[Stated], Formed], judge: Callable[[Stated, Formed], None]
) -> Callable[[Stated], None]:
    """The decision of one property of one kind of layer."""
    return lambda stated: judge(stated, form(stated))


def layer_claims() -> Iterator[tuple[str, tuple[Callable[[Stated], None], str, str, str]]]:
    """The claims about stored layers by name."""
    for (kind, (form, roles, words)), (name, (judge, wanted, said)) in product(
        FORMS.items(), ABOUT_LAYERS.items()
    ):
        sentence = BEGINNING + said.replace("{kind}", words)
        yield f"{kind}_{name}", (about_layer(form, judge), roles, wanted, sentence)


CLAIMS: dict[str, tuple[Callable[[Stated], None], str, str, str]] = {
    "causal": (causal, "map", "", "every weight above the diagonal is exactly zero"),
    "decay": (
        decay, "log_decay", "most width",
        "every product of decays over {width} tokens is at most {most}",
    ),
    "decay_box": (
        decay_box, "bias lower rate upper weight", "box most width",
        "for every input of the stored box, whose coordinates lie between {box} and {end}, the"
        " decay over {width} tokens is at most {most}",
    ),
    "injective": (
        injective, "key", "first_row sink",
        "in exact arithmetic, for every scale but zero, different queries get different softmax"
        " rows from row {first_row} on, {sink} a sink",
    ),
    "injective_masked": (
        injective_masked, "key mask", "least sink",
        "in exact arithmetic, for every scale but zero, different queries get different softmax"
        " rows in every row of the stored mask that shows at least {least} keys, {sink} a sink",
    ),
    "injective_within": (
        injective_within, "factor key", "distance first_row",
        "in exact arithmetic, for every scale but zero, different queries get different softmax"
        " rows from row {first_row} on, for all keys within {distance} of the stored ones in"
        " Frobenius norm",
    ),
    "linear_injective": (
        linear_injective, "key", "feature_map",
        "in exact arithmetic, different queries get different rows of normalised linear attention"
        " with features {feature_map} and without an epsilon",
    ),
    "locality": (
        locality, "key lower upper", "box scale share window",
        "for every query of the stored box, whose coordinates lie between {box} and {end}, at least"
        " {share} of the softmax row (scale {scale}) lies on the keys from {window} up to, but not"
        " including, {stop}",
    ),
    "margin": (
        margin, "factor key", "bound first_row",
        "the smallest singular value of [keys, 1] up to row {first_row} is at least {bound}",
    ),
    "nonexpansive": (nonexpansive, "key rate", "", "no transition I - b k k^T expands"),
    "nonexpansive_decayed": (
        nonexpansive_decayed, "key log_decay rate", "",
        "no transition e^g (I - b k k^T) expands, its decay e^g included",
    ),
    "nonnegative": (nonnegative, "map", "", "no weight is below zero"),
    "product_norm": (
        product_norm, "A left right", "most width",
        "in exact arithmetic, no product of {width} stored transitions in a row stretches a state"
        " by more than {most}",
    ),
    "row_sums": (
        row_sums, "map", "target tolerance", "every row sums to {target} within {tolerance}",
    ),
    "same_system": (
        same_system,
        " ".join(sorted([*SYSTEM, *("other_" + name for name in SYSTEM)])),
        "other_read read tolerance",
        "in exact arithmetic, the map of the stored system, read {read} its update, and that of the"
        " other one, read {other_read} its update, differ by at most {tolerance} in Frobenius norm",
    ),
    "system_nonnegative": (
        system_nonnegative, " ".join(SYSTEM), "read",
        "in exact arithmetic, no weight of the map of the stored system, read {read} its update, is"
        " below zero",
    ),
    "system_row_sums": (
        system_row_sums, " ".join(SYSTEM), "read target tolerance",
        "in exact arithmetic, every row of the map of the stored system, read {read} its update,"
        " sums to {target} within {tolerance}",
    ),
    "same_map": (
        same_map, "map other", "tolerance",
        "the two maps differ by at most {tolerance} in Frobenius norm",
    ),
    "window_mass": (
        window_mass, "map", "share width",
        "at least {share} of every row's absolute weight lies on its last {width} tokens",
    ),
}  # fmt: skip
CLAIMS |= layer_claims()


def in_words(name: str, value: Any) -> dict[str, str]:
    """What stands in the sentence for a parameter."""
    if name == "box":
        ends = listed(value)
        need(len(ends) == 2 and all(len(text(end)) <= 2200 for end in ends), "no two short ends")
        return {"box": decimal(number(ends[0])), "end": decimal(number(ends[1]))}
    if name == "window":
        ends = listed(value)
        need(len(ends) == 2, "a window has two ends")
        return {"window": str(integer(ends[0])), "stop": str(integer(ends[1]))}
    if name == "sink":
        need(isinstance(value, bool), "sink is neither true nor false")
        return {"sink": "with" if value else "without"}
    if name in ("feature_map", "read", "other_read"):
        return {name: text(value)}
    need(not isinstance(value, str) or len(value) <= 2200, "a parameter is too long")
    return {
        name: str(integer(value))
        if name in ("width", "first_row", "least")
        else decimal(number(value))
    }


def decimal(value: Fraction) -> str:
    """The shortest decimal of a float64, or the fraction."""
    if fits_float(value.numerator, value.denominator):
        return repr(value.numerator / value.denominator)
    return f"{value.numerator}/{value.denominator}"


# --- the decision ----------------------------------------------------------------------------

REAL = {
    "injective_within", "product_norm", "same_system", "system_nonnegative", "system_row_sums",
    *(name for name, _ in layer_claims()),
}  # fmt: skip
FIELDS = (
    "format", "format_version", "claim", "verdict", "level", "subject", "evidence", "witness",
    "unchecked", "identity",
)  # fmt: skip


def verdict(path: Path) -> str:
    """``PROVED`` or ``REFUTED``, whichever the file proves.

    Raises:
        Refused: if it proves neither.
    """
    try:
        return _verdict(path.absolute())
    except (RecursionError, MemoryError) as error:
        raise Refused(f"too large: {type(error).__name__}") from None


def _verdict(path: Path) -> str:
    raw = regular(path, 16 * MIB)
    need(raw.isascii(), "the text is not ASCII")
    reader = Reader(raw.decode("ascii"), spaced=True)
    content = reader.whole()
    need(isinstance(content, dict), "no certificate")
    need(content.get("format") == "dsf-certificate", "no certificate")
    need(content.get("format_version") == 2, "another version of the format: issue it anew")
    _, version, claim, stated, level, subject, evidence, witness, beside, digest = object_with(
        content, *FIELDS
    )
    integer(version)
    need(digest == identity(reader.text, reader.identity_line), "another identity")
    unchecked(beside)
    name, parameters, said = object_with(claim, "name", "parameters", "sentence")
    need(text(name) in CLAIMS, "the claim is unknown")
    decide, roles, wanted, sentence = CLAIMS[name]
    values = zip(wanted.split(), object_with(parameters, *wanted.split()), strict=True)
    words: dict[str, str] = {}
    for part, value in values:
        words |= in_words(part, value)
    need(said == sentence.format(**words), "the sentence says something else")
    need(level == ("real" if name in REAL else "data"), "another level")
    need(stated in ("PROVED", "REFUTED"), "neither PROVED nor REFUTED")
    need(stated == "PROVED" or name != "margin", "cannot be refuted")
    if stated == "REFUTED" and name == "injective_within":
        roles = "key"
    beside = path.parent
    folder = beside.parent if beside.name == "certificates" else beside
    parts = {"parameters": parameters, "evidence": evidence, "witness": witness}
    decide(Stated(stated, subject_of(subject, folder, roles.split()), **parts))
    return str(stated)


def identity(text: str, line: tuple[int, int]) -> str:
    """The hash of the text without the line of the identity, which is never the last one."""
    rest = text[: line[0]] + text[line[1] + 1 :]
    return hashlib.sha256(rest.encode("ascii")).hexdigest()


def unchecked(beside: Any) -> None:
    """The kinds of what is stated beside the evidence."""
    names = "method", "assumptions", "observed", "limits", "provenance", "software"
    method, assumptions, observed, *tables = object_with(beside, *names)
    text(method)
    for part in listed(assumptions):
        text(part)
    if observed is not None:
        number(observed)
    for table in tables:
        need(isinstance(table, dict), "an object is missing")
        for part in table.values():
            text(part)


def printable(name: str) -> str:
    """A name without anything that a terminal would act upon."""
    return ascii(name)[1:-1]


def main(names: list[str]) -> int:
    """One line for every file."""
    good = 0
    for name in names:
        try:
            print(f"accepted {verdict(Path(name))} {printable(name)}")
            good += 1
        except Refused as reason:
            print(f"REFUSED {printable(name)}: {printable(str(reason))}")
    return 0 if names and good == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
