"""Accept or reject certificates, with the standard library alone.

    python -I -S checker.py FILE...

A certificate is a JSON file with the tensors that it is about (safetensors). This file reads
both, derives the verdict anew from the stored bytes and the evidence, and rejects what differs. It
imports nothing of the library that wrote the certificate, and decides in integers and fractions
only: a finite float is the fraction it stores. Exit status 0 if at least one file is given and all
are accepted, 1 otherwise.

The format is described in the documentation, "The certificate format".
"""

import hashlib
import json
import os
import re
import stat
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from math import gcd, isfinite, isqrt, prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

FORMAT, FORMAT_VERSION = "dsf-certificate", 2
MAX_CERTIFICATE_BYTES = 16 << 20
MAX_TENSOR_BYTES = 256 << 20
MAX_HEADER_BYTES = 64 << 10
MAX_INTEGER_DIGITS = 4000  # digits
MAX_PARAMETER_CHARACTERS = 2200  # characters of a number that a claim names
MAX_DEPTH = 200  # objects and lists within each other
MAX_WORK_BITS = 1 << 34  # operations times bits, of one step of a decision
BITS_OF_EXP = 1 << 17  # what an enclosed exponential costs, as bits of one operation
MAX_TREE_PRODUCTS = 1 << 20  # of one tree of boxes: leaves times stored numbers of the keys
BITS = 160  # of every enclosure
WIDE = 256  # of the integers that it is computed in
KEYS = {
    "claim", "evidence", "format", "format_version", "identity", "level", "subject", "unchecked",
    "verdict", "witness",
}  # fmt: skip
UNCHECKED = {"assumptions", "limits", "method", "observed", "provenance", "software"}
ENTRY = {"dtype", "file", "role", "sha256", "shape", "tensor"}


class Rejected(Exception):
    """The certificate does not prove what it states."""


# --- text ------------------------------------------------------------------------------------

ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=True, allow_nan=False, indent=1)


def canonical(content: dict[str, Any]) -> str:
    """The canonical text of a certificate: sorted keys, fixed spacing, a final newline."""
    return ENCODER.encode(content) + "\n"


def identity(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical text without the identity itself."""
    rest = {name: value for name, value in content.items() if name != "identity"}
    return hashlib.sha256(canonical(rest).encode()).hexdigest()


def parse(text: str) -> dict[str, Any]:
    """The content of a certificate, once its text is canonical and its identity is correct."""
    content = decoded(text)
    if not isinstance(content, dict):
        raise Rejected("the file is not a certificate")
    found = content.get("format"), content.get("format_version")
    if found != (FORMAT, FORMAT_VERSION) or type(found[1]) is not int:
        raise Rejected(
            f"not of format {FORMAT} {FORMAT_VERSION}; certificates of earlier formats have to be "
            "issued anew"
        )
    _exactly(content, KEYS, "the certificate")
    if not _is_canonical(content, text):
        raise Rejected("the text is not canonical")
    if "\n" + " " * (MAX_DEPTH + 1) in text:
        raise Rejected(f"objects lie more than {MAX_DEPTH} deep within each other")
    if identity(content) != content["identity"]:
        raise Rejected("the identity does not fit the content")
    return content


def decoded(text: str) -> Any:
    """JSON in which names are unique and every number is an integer in its shortest form."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Rejected("a name stands twice in one object")
        return found

    def refuse(text: str) -> Any:
        raise Rejected(f"numbers with a point or an exponent, such as {shown(text)}, are refused")

    def integer(text: str) -> int:
        if len(text) > MAX_INTEGER_DIGITS or text == "-0":
            raise Rejected(f"an integer has more than {MAX_INTEGER_DIGITS} digits, or is -0")
        return int(text)

    try:
        return json.loads(
            text,
            object_pairs_hook=unique,
            parse_float=refuse,
            parse_constant=refuse,
            parse_int=integer,
        )
    except (ValueError, RecursionError) as error:
        raise Rejected(f"not readable as JSON: {shown(str(error))}") from None


def _is_canonical(content: Any, text: str) -> bool:
    """Compared piece by piece, so that a text of many nested lists cannot fill the memory."""
    place = 0
    for piece in ENCODER.iterencode(content):
        if not text.startswith(piece, place):
            return False
        place += len(piece)
    return text[place:] == "\n"


def shown(text: str) -> str:
    """Text of a file as it may be printed: plain ASCII without control characters, shortened."""
    plain = text.encode("ascii", "backslashreplace").decode()
    plain = "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in plain)
    return plain if len(plain) <= 200 else plain[:197] + "..."


def _exactly(value: Any, names: set[str], what: str) -> None:
    if not isinstance(value, dict) or set(value) != names:
        raise Rejected(f"{what} must have exactly the fields {', '.join(sorted(names)) or 'none'}")


# --- numbers ---------------------------------------------------------------------------------

FLOAT = re.compile(r"-?0x[01]\.[0-9a-f]{13}p[+-][0-9]{1,4}|0x0\.0p\+0")
FRACTION = re.compile(r"-?[1-9][0-9]*/[1-9][0-9]*")


def number(text: Any) -> Fraction:
    """A rational number from its only written form.

    A number that a float64 holds is that float as ``float.hex`` writes it, zero without a sign. Any
    other number is a reduced fraction of two decimal integers.
    """
    if type(text) is str and FLOAT.fullmatch(text):
        try:
            value = float.fromhex(text)
        except OverflowError:
            value = float("inf")
        if value.hex() == text:
            return Fraction(value)
    elif type(text) is str and FRACTION.fullmatch(text):
        above, below = text.split("/")
        if max(len(above), len(below)) <= MAX_INTEGER_DIGITS:
            top, bottom = int(above), int(below)
            if gcd(top, bottom) == 1 and not is_float(Fraction(top, bottom)):
                return Fraction(top, bottom)
    raise Rejected(f"{shown(repr(text))} is not a number in its only written form")


def is_float(value: Fraction) -> bool:
    """Whether a float64 holds ``value`` exactly."""
    try:
        return Fraction(float(value)) == value
    except OverflowError:
        return False


def parameter(text: Any) -> Fraction:
    """Return a number of a claim; its length is limited, so that it can be read."""
    if len(word(text)) > MAX_PARAMETER_CHARACTERS:
        raise Rejected(f"a parameter has more than {MAX_PARAMETER_CHARACTERS} characters")
    return number(text)


def affordable(operations: int, bits: int = 64) -> None:
    """Reject what takes more than the budget of operations times bits."""
    if not is_affordable(operations, bits):
        raise Rejected("the claim takes more work than is allowed")


def is_affordable(operations: int, bits: int) -> bool:
    """Whether a step of a decision stays within the budget of operations times bits."""
    return operations * bits <= MAX_WORK_BITS


Value = TypeVar("Value")


def typed(value: Any, kind: type[Value], refusal: str) -> Value:
    if type(value) is not kind:
        raise Rejected(f"{shown(repr(value))} is {refusal}")
    return value


whole = partial(typed, kind=int, refusal="not an integer")
flag = partial(typed, kind=bool, refusal="neither true nor false")
word = partial(typed, kind=str, refusal="not a string")


def positive(value: Any) -> int:
    """An integer of at least one."""
    if whole(value) < 1:
        raise Rejected(f"{value} is not above 0")
    return int(value)


def place(value: Any, size: int, what: str) -> int:
    """An index, checked to lie in ``0 ... size - 1``."""
    if type(value) is not int or not 0 <= value < size:
        raise Rejected(f"{what} {shown(repr(value))} lies outside 0 ... {size - 1}")
    return value


def several(value: Any, read: Callable[[Any], Any]) -> list[Any]:
    """A list, each part read by ``read``."""
    return [read(part) for part in typed(value, list, "not a list")]


def pair(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    def both(value: Any) -> tuple[Any, Any]:
        found = several(value, read)
        if len(found) != 2:
            raise Rejected("a list of two is needed")
        return found[0], found[1]

    return both


def increasing(value: Any, size: int) -> list[int]:
    """Different indices below ``size``, in order."""
    found: list[int] = several(value, lambda part: place(part, size, "row"))
    if any(a >= b for a, b in pairwise(found)):
        raise Rejected("the rows must be different and in order")
    return found


# --- tensors ---------------------------------------------------------------------------------

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
CODES = {"F64": "d", "F32": "f", "F16": "e"}


class Tensor:
    """A stored tensor, seen as a list of rows along its last axis; a vector is one row."""

    def __init__(self, kind: str, shape: Sequence[int], data: memoryview):
        self.kind, self.shape, self.data = kind, tuple(shape), data
        self.columns = self.shape[-1]
        self.rows = prod(self.shape[:-1])

    def floats(self, index: int) -> tuple[float, ...]:
        """One row as it is stored; ``load`` refused what is not finite."""
        width = SIZES[self.kind] * self.columns
        raw: bytes | memoryview = self.data[index * width : (index + 1) * width]
        if self.kind == "BF16":
            halves = struct.unpack(f"<{self.columns}H", raw)
            raw, code = struct.pack(f"<{self.columns}I", *(half << 16 for half in halves)), "f"
        else:
            code = CODES[self.kind]
        return struct.unpack(f"<{self.columns}{code}", raw)

    def row(self, index: int) -> list[Fraction]:
        """One row as fractions."""
        return [Fraction(value) for value in self.floats(index)]

    def scaled(self, index: int, extra: Sequence[int] = ()) -> tuple[list[int], int]:
        """One row followed by ``extra``, as integers over a common power of two."""
        parts = [value.as_integer_ratio() for value in self.floats(index)]
        unit = max(below for _, below in parts)
        found = [above * (unit // below) for above, below in parts]
        return found + [value * unit for value in extra], unit

    def log_decays(self, index: int) -> list[Fraction | None]:
        """One row of logarithms of decays; None for minus infinity, a decay of zero."""
        return [Fraction(value) if isfinite(value) else None for value in self.floats(index)]


def read_file(path: Path, largest: int) -> bytes:
    """Return the bytes of a regular file, not a link, of at most ``largest`` bytes.

    Raises:
        Rejected: for anything else, and for a missing file.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        if path.is_symlink():
            raise Rejected("a link is not followed")
        handle = os.open(path, flags)
    except OSError as error:
        raise Rejected(f"cannot be opened: {error.strerror}") from None
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise Rejected("not a regular file")
        if state.st_size > largest:
            raise Rejected(f"larger than {largest} bytes")
        with os.fdopen(os.dup(handle), "rb") as file:
            data = file.read(state.st_size + 1)
    finally:
        os.close(handle)
    if len(data) != state.st_size:
        raise Rejected("the file changes while it is read")
    return data


PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def inside(folder: Path, name: Any) -> Path:
    """The path of a member of ``folder``, no part of which is a link."""
    parts = word(name).split("/")
    if len(name) > 1000 or not all(PART.fullmatch(part) for part in parts):
        raise Rejected(f"{shown(name)} is not a plain path inside the folder")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise Rejected(f"{name} goes through a link")
    return path


def load(folder: Path, entries: Any, roles: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of ``subject``, after their bytes have the stated hashes."""
    found: dict[str, Tensor] = {}
    files: dict[str, dict[str, tuple[str, list[int], memoryview]]] = {}
    for entry in several(entries, lambda entry: entry):
        _exactly(entry, ENTRY, "an entry of the subject")
        name = word(entry["file"])
        if name not in files:
            files[name] = stored_tensors(read_file(inside(folder, name), MAX_TENSOR_BYTES))
        stored = files[name].get(word(entry["tensor"]))
        if stored is None:
            raise Rejected(f"{name} holds no tensor {shown(entry['tensor'])}")
        kind, shape, data = stored
        shapes_agree = shape == several(entry["shape"], positive)
        if kind != entry["dtype"] or not shapes_agree:
            raise Rejected(f"{shown(entry['tensor'])} has another type or shape than stated")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise Rejected(f"{shown(entry['tensor'])} has other bytes than the ones certified")
        part = found[word(entry["role"])] = Tensor(kind, shape, data)
        is_sound = float("inf").__gt__ if entry["role"] == "log_decay" else isfinite
        if not all(all(map(is_sound, part.floats(index))) for index in range(part.rows)):
            raise Rejected(f"{shown(entry['tensor'])} has a number that is not finite")
    if [entry["role"] for entry in entries] != list(roles):
        raise Rejected(f"the subject must have exactly the roles {', '.join(roles)}, in this order")
    return found


def stored_tensors(raw: bytes) -> dict[str, tuple[str, list[int], memoryview]]:
    """Type, shape and bytes of every tensor of a safetensors file, read strictly.

    Names stand once, the tensors cover the data without gaps and overlaps, and there is nothing
    else in the header.
    """
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(len(raw) - 8, MAX_HEADER_BYTES):
        raise Rejected("a file of tensors has no safetensors header")
    try:
        text = raw[8 : 8 + length].decode("ascii")
    except UnicodeDecodeError:
        raise Rejected("the header of a file of tensors is not ASCII") from None
    header = decoded(text)
    if not isinstance(header, dict) or not header or not text.startswith("{"):
        raise Rejected("the header of a file of tensors lists no tensor")
    body = memoryview(raw)[8 + length :]
    found: dict[str, tuple[str, list[int], memoryview]] = {}
    spans = []
    for name, entry in header.items():
        if not PART.fullmatch(name):
            raise Rejected(f"{shown(name)} is not the name of a tensor")
        _exactly(entry, {"dtype", "shape", "data_offsets"}, f"the header of tensor {name}")
        kind, shape = word(entry["dtype"]), several(entry["shape"], positive)
        start, stop = pair(whole)(entry["data_offsets"])
        if kind not in SIZES or not shape or len(shape) > 8:
            raise Rejected(f"tensor {name} must be a floating tensor with 1 to 8 axes")
        if stop - start != SIZES[kind] * prod(shape) or not 0 <= start < stop <= len(body):
            raise Rejected(f"tensor {name} does not fit its file")
        spans.append((start, stop))
        found[name] = kind, shape, body[start:stop]
    edges = [0, *(stop for _, stop in sorted(spans))]
    if [start for start, _ in sorted(spans)] != edges[:-1] or edges[-1] != len(body):
        raise Rejected("the tensors of a file leave gaps or overlap")
    return found


# --- enclosures ------------------------------------------------------------------------------

MAX_EXPONENT = 1 << 14  # e^MAX_EXPONENT is beyond every number that can be written in a certificate


def down(value: Fraction) -> Fraction:
    """``value`` rounded down to a multiple of 2^-BITS relative to its size."""
    above, below = value.numerator, value.denominator
    shift = BITS - above.bit_length() + below.bit_length()
    return _dyadic((above << max(shift, 0)) // (below << max(-shift, 0)), -shift)


def up(value: Fraction) -> Fraction:
    """``value`` rounded up to a multiple of 2^-BITS relative to its size."""
    return -down(-value)


def exp_below(x: Fraction) -> Fraction:
    """A number at most e^x."""
    return Fraction(0) if x < -MAX_EXPONENT else _exp(min(x, Fraction(MAX_EXPONENT)))[0]


def exp_above(x: Fraction) -> Fraction:
    """A number at least e^x."""
    if x > MAX_EXPONENT:
        raise Rejected("an exponent is too large to enclose")
    return _exp(max(x, Fraction(-MAX_EXPONENT)))[1]


def _exp(x: Fraction) -> tuple[Fraction, Fraction]:
    """Bounds of e^x: the series at x / 2^n, squared n times; integers in units of 2^-WIDE."""
    if x == 0:
        return Fraction(1), Fraction(1)
    if x < 0:
        low, high = _exp(-x)
        return down(1 / high), up(1 / low)
    halvings = x.__ceil__().bit_length() + 8
    scaled = x.numerator << (WIDE - halvings)
    below, above = exp_series(scaled // x.denominator), exp_series(-(-scaled // x.denominator))
    bounds = below[0], above[1]
    raised_low = raised_high = 0
    for _ in range(halvings):
        least, most = bounds[0] * bounds[0] >> WIDE, shifted_up(bounds[1] * bounds[1], WIDE)
        cut_low, cut_high = (max(0, part.bit_length() - WIDE - 1) for part in (least, most))
        bounds = least >> cut_low, shifted_up(most, cut_high)
        raised_low, raised_high = 2 * raised_low + cut_low, 2 * raised_high + cut_high
    return _dyadic(bounds[0], raised_low - WIDE), _dyadic(bounds[1], raised_high - WIDE)


def exp_series(x: int) -> tuple[int, int]:
    """Bounds of e^x for 0 <= x <= 2^-8, all in units of 2^-WIDE.

    Every term of the upper one is rounded up. Once a term is at most one unit, all the terms that
    follow are less than one unit together.
    """
    below = above = term_below = term_above = 1 << WIDE
    n = 1
    while term_above > 1:
        term_below = (term_below * x >> WIDE) // n
        term_above = -(-shifted_up(term_above * x, WIDE) // n)
        below, above, n = below + term_below, above + term_above, n + 1
    return below, above + 1


def shifted_up(value: int, bits: int) -> int:
    """``value`` divided by 2^bits, rounded up."""
    return -(-value >> bits)


def _dyadic(value: int, exponent: int) -> Fraction:
    return Fraction(value << exponent) if exponent >= 0 else Fraction(value, 1 << -exponent)


def softplus_below(x: Fraction) -> Fraction:
    """A number at most log(1 + e^x): its tangent at a few points, the best of them."""
    if x > MAX_EXPONENT // 2:
        return x
    raised = exp_below(x)
    best = max(Fraction(0), x, raised / (1 + raised))
    for _ in range(6):  # Newton from below on e^y = 1 + e^x, each step checked
        target = 1 + raised
        step = best + (target / exp_above(best) - 1) / (target / exp_above(best))
        if exp_above(down(step)) <= target and step > best:
            best = down(step)
    return best


def softplus_above(x: Fraction) -> Fraction:
    """A number at least log(1 + e^x): Newton's steps from above stay above, since e^y is convex."""
    if x > MAX_EXPONENT // 2:
        return x + Fraction(1, 1 << BITS)
    raised = exp_above(x)
    best = max(x, Fraction(0)) + 1
    for _ in range(8):
        best = min(best, up(best - 1 + (1 + raised) / exp_below(best)))
    return min(best, raised)


def added(values: Iterable[Fraction]) -> Fraction:
    return sum(values, Fraction(0))


# --- claims ----------------------------------------------------------------------------------


class Case(NamedTuple):
    """A certificate whose fields have been read: only values, no text of the file."""

    verdict: str
    subject: dict[str, Tensor]
    parameters: dict[str, Any]
    evidence: dict[str, Any]
    witness: dict[str, Any]


def injective(case: Case) -> str:
    """Softmax rows are injective in the query iff [keys in reach, 1] has full column rank."""
    key, sink = case.subject["key"], case.parameters["sink"]
    _rank(key, 2, "key")
    first = place(case.parameters["first_row"], key.rows, "first_row")
    width = key.columns if sink else key.columns + 1
    extra = () if sink else (1,)
    if case.verdict == "REFUTED":
        return _blind(case, first, width, sink=sink)
    rows = increasing(case.evidence["rows"], first + 1)
    if len(rows) != width:
        raise Rejected(f"{width} different rows are needed")
    affordable(width**3, BITS_OF_PRIMES)
    if not nonsingular([key.scaled(index, extra)[0] for index in rows]):
        raise Rejected("the rows are dependent")
    return "PROVED"


def injective_masked(case: Case) -> str:
    """The same for the keys that each row of a stored mask shows, in rows that show enough."""
    key, mask = case.subject["key"], case.subject["mask"]
    sink, least = case.parameters["sink"], case.parameters["least"]
    _rank(key, 2, "key")
    _rank(mask, 2, "mask")
    width = key.columns if sink else key.columns + 1
    if mask.columns != key.rows or least < width:
        raise Rejected("the mask does not fit the keys, or rows with too few keys are claimed")
    if case.verdict == "REFUTED":
        seen = _shown(mask, place(case.witness["row"], mask.rows, "row"))
        null = several(case.witness["null"], whole)
        if len(seen) < least:
            raise Rejected("the witness lies outside the rows of the claim")
        return _unseen(key, seen, null, sink)
    sets = several(case.evidence["sets"], lambda rows: increasing(rows, key.rows))
    chosen = several(case.evidence["chosen"], whole)
    if any(len(rows) != width for rows in sets) or len(chosen) != mask.rows:
        raise Rejected(f"sets of {width} keys are needed, and one of them for every row")
    affordable(len(sets) * width**3, BITS_OF_PRIMES)
    extra = () if sink else (1,)
    for rows in sets:
        if not nonsingular([key.scaled(index, extra)[0] for index in rows]):
            raise Rejected("the keys of a set are dependent")
    decided = 0
    for row, number_of_set in enumerate(chosen):
        seen = _shown(mask, row)
        if len(seen) >= least:
            decided += 1
            if not seen.issuperset(sets[place(number_of_set, len(sets), "set")]):
                raise Rejected(f"row {row} does not show all keys of its set")
    if not decided:
        raise Rejected("no row shows enough keys")
    return "PROVED"


def _shown(mask: Tensor, row: int) -> set[int]:
    """The keys that a row of a mask shows: those with a one."""
    values = mask.floats(row)
    if not set(values) <= {0.0, 1.0}:
        raise Rejected("a mask has a number that is neither zero nor one")
    return {index for index, value in enumerate(values) if value}


def _blind(case: Case, first: int, width: int, *, sink: bool = False, distance: Any = 0) -> str:
    """Refuted in a row from ``first`` on, by fewer keys than columns or by a direction."""
    key = case.subject["key"]
    row = place(case.witness["row"], key.rows, "row")
    null = several(case.witness["null"], whole)
    if row < first:
        raise Rejected("the witness lies outside the rows of the claim")
    if null:
        return _unseen(key, range(row + 1), null, sink, distance)
    # Fewer equations than unknowns have a solution other than zero.
    if row + 1 >= width:
        raise Rejected(f"{row + 1} keys are not fewer than the {width} columns")
    return "REFUTED"


def _unseen(
    key: Tensor, seen: Collection[int], null: list[int], sink: bool, distance: Any = 0
) -> str:
    """Refuted by a direction (v, c) of the query along which no score of the keys moves.

    Or scores move so little that keys within the distance do not see it: |K v + c| <= distance |v|.
    """
    if len(null) != key.columns + 1 or not any(null[:-1]) or (sink and null[-1]):
        raise Rejected("the witness is not a direction of the query")
    affordable(len(seen) * len(null), 64 + max(map(int.bit_length, null)))
    moved = Fraction(0)
    for index in seen:
        ints, unit = key.scaled(index)
        moved += Fraction(sum(map(int.__mul__, ints, null)) + null[-1] * unit, unit) ** 2
    if moved > distance**2 * sum(part * part for part in null[:-1]):
        raise Rejected("the witness moves the scores of keys by more than the claim allows")
    return "REFUTED"


PRIMES = ((1 << 61) - 1, (1 << 89) - 1)
BITS_OF_PRIMES = 89


def nonsingular(matrix: list[list[int]]) -> bool:
    """Whether the determinant of a square matrix of integers is not zero modulo a prime."""
    return any(_full_rank(matrix, prime) for prime in PRIMES)


def _full_rank(matrix: list[list[int]], prime: int) -> bool:
    rows = [[value % prime for value in row] for row in matrix]
    for column in range(len(rows)):
        pivot = next((k for k in range(column, len(rows)) if rows[k][column]), None)
        if pivot is None:
            return False
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column]
        inverse = pow(lead[column], -1, prime)
        for row in rows[column + 1 :]:
            if row[column]:
                factor = row[column] * inverse % prime
                row[column:] = [
                    (a - factor * b) % prime
                    for a, b in zip(row[column:], lead[column:], strict=True)
                ]
    return True


FEATURES: dict[str, Callable[[Fraction], Fraction | None]] = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, Fraction(0)),
    "elu_plus_one": lambda x: x + 1 if x >= 0 else None,
}


def linear_injective(case: Case) -> str:
    """Normalised linear attention: two queries with proportional features share their weights."""
    key = case.subject["key"]
    _rank(key, 2, "key")
    name = case.parameters["feature_map"]
    feature = FEATURES.get(name)
    if feature is None:
        raise Rejected("the feature map is unknown")
    queries = [several(case.witness[query], number) for query in ("query", "other")]
    if queries[0] == queries[1] or any(len(query) != key.columns for query in queries):
        raise Rejected("two different queries of the keys' width are needed")
    row = place(case.witness["row"], key.rows, "row")
    images = [[feature(part) for part in query] for query in queries]
    if any(part is None for image in images for part in image):
        raise Rejected("the features of the queries are not rational")
    one, other = images
    lead = next((k for k, part in enumerate(one) if part), None)
    if lead is None or not other[lead]:
        raise Rejected("the features of a query vanish")
    factor = other[lead] / one[lead]  # type: ignore[operator]
    if any(b != factor * a for a, b in zip(one, other, strict=True)):  # type: ignore[operator]
        raise Rejected("the features are not proportional")
    total = Fraction(0)
    for index in range(row + 1):
        if name == "elu_plus_one":  # every feature of a key is above zero, so every sum is
            return "REFUTED"
        features = (feature(part) for part in key.row(index))
        total += added(a * b for a, b in zip(one, features, strict=True))  # type: ignore[operator]
    if total == 0:
        raise Rejected("the weights have no denominator")
    return "REFUTED"


def margin(case: Case) -> str:
    """sigma_min([K, 1]) >= bound."""
    bound = case.parameters["bound"]
    spare, energy = _residual(case, bound)
    if bound <= 0 or spare < 0 or spare * spare < energy:
        raise Rejected("the residual does not leave the stated bound")
    return "PROVED"


def injective_within(case: Case) -> str:
    """sigma_min([K, 1]) > distance, so no matrix of keys within the distance loses rank.

    Refuted by (v, c) with |K v + c|^2 <= distance^2 |v|^2: the keys K - (K v + c) v^T / |v|^2 lie
    within the distance and do not see the direction v.
    """
    distance = case.parameters["distance"]
    if case.verdict == "PROVED":
        spare, energy = _residual(case, distance)
        if distance < 0 or spare <= 0 or spare * spare <= energy:
            raise Rejected("the residual does not leave a margin above the distance")
        return "PROVED"
    key = case.subject["key"]
    _rank(key, 2, "key")
    first = place(case.parameters["first_row"], key.rows, "first_row")
    if distance < 0:
        raise Rejected("the distance is below zero")
    return _blind(case, first, key.columns + 1, distance=distance)


def _residual(case: Case, bound: Fraction) -> tuple[Fraction, Fraction]:
    """s^2 - bound^2, and |A^T A - s^2 I - R^T R|^2, so that sigma_min(A)^2 >= s^2 - its root."""
    key, factor = case.subject["key"], case.subject["factor"]
    _rank(key, 2, "key")
    first = place(case.parameters["first_row"], key.rows, "first_row")
    rows = increasing(case.evidence["rows"], first + 1)
    width = key.columns + 1
    if factor.shape != (width, width):
        raise Rejected("the factor has the wrong size")
    if not rows:
        raise Rejected("no rows")
    affordable(len(rows) * width * width)
    gram, unit = _gram([key.scaled(index, (1,)) for index in rows])
    other, other_unit = _gram([factor.scaled(index) for index in range(width)])
    shift = number(case.evidence["shift"])
    energy = Fraction(0)
    for (i, j), dot in gram.items():
        miss = Fraction(dot, unit) - Fraction(other[i, j], other_unit)
        energy += (miss - shift * shift) ** 2 if i == j else 2 * miss**2
    return shift * shift - bound * bound, energy


def _gram(rows: list[tuple[list[int], int]]) -> tuple[dict[tuple[int, int], int], int]:
    """The lower triangle of the sum of rowᵀ row, as integers over one square unit."""
    unit = max(below for _, below in rows)
    columns = list(zip(*([v * (unit // below) for v in row] for row, below in rows), strict=True))
    lower = ((i, j) for i in range(len(columns)) for j in range(i + 1))
    return {(i, j): sum(map(int.__mul__, columns[i], columns[j])) for i, j in lower}, unit * unit


Breaks = Callable[[int], bool]
"""Whether a row of a map, by its number, breaks a claim."""


def row_sums(weights: Tensor, parameters: dict[str, Any]) -> Breaks:
    """Every stored row sums to ``target`` within ``tolerance``."""
    target, tolerance = parameters["target"], parameters["tolerance"]
    if tolerance < 0:
        raise Rejected("the tolerance is below zero")

    def off(row: int) -> bool:
        values, unit = weights.scaled(row)
        return abs(Fraction(sum(values), unit) - target) > tolerance

    return off


def nonnegative(weights: Tensor, _parameters: dict[str, Any]) -> Breaks:
    """No stored weight is below zero."""
    return lambda row: min(weights.floats(row)) < 0


def causal(weights: Tensor, _parameters: dict[str, Any]) -> Breaks:
    """Every stored weight above the diagonal is exactly zero."""
    steps = _square(weights)
    return lambda row: any(weights.floats(row)[row % steps + 1 :])


def window_mass(weights: Tensor, parameters: dict[str, Any]) -> Breaks:
    """At least ``share`` of every row's absolute weight lies on its last ``width`` tokens."""
    width, share = parameters["width"], parameters["share"]
    steps = _square(weights)
    if not 0 <= share <= 1:
        raise Rejected("the share lies outside 0 ... 1")

    def short(row: int) -> bool:
        values = [abs(part) for part in weights.scaled(row)[0]]
        token = row % steps
        return sum(values[max(0, token - width + 1) : token + 1]) < share * sum(values)

    return short


def _rank(part: Tensor, axes: int, role: str) -> None:
    if len(part.shape) != axes:
        raise Rejected(f"{role} must have {axes} axes, but its shape is {list(part.shape)}")


def _square(weights: Tensor) -> int:
    if len(weights.shape) < 2 or weights.shape[-1] != weights.shape[-2]:
        raise Rejected(f"the map must be square, but its shape is {list(weights.shape)}")
    return weights.columns


def each_row(claim: Callable[[Tensor, dict[str, Any]], Breaks], case: Case) -> str:
    weights = case.subject["map"]
    fails = claim(weights, case.parameters)
    if len(weights.shape) < 2:
        raise Rejected("a map has at least two axes")
    if case.verdict == "REFUTED":
        batch = several(case.witness["batch"], whole)
        row = _flat([*batch, case.witness["row"]], weights.shape[:-1])
        if not fails(row):
            raise Rejected(f"row {row} keeps the claim")
        return "REFUTED"
    for row in range(weights.rows):
        if fails(row):
            raise Rejected(f"row {row} breaks the claim")
    return "PROVED"


def _flat(index: list[Any], shape: Sequence[int]) -> int:
    """The number of a row from its index along every axis."""
    if len(index) != len(shape):
        raise Rejected(f"the witness must have {len(shape)} indices")
    found = 0
    for value, size in zip(index, shape, strict=True):
        found = found * size + place(value, size, "index")
    return found


def same_map(case: Case) -> str:
    """Two stored maps differ by at most ``tolerance`` in Frobenius norm."""
    first, second = case.subject["map"], case.subject["other"]
    tolerance = case.parameters["tolerance"]
    if first.shape != second.shape or len(first.shape) < 2 or tolerance < 0:
        raise Rejected("two maps of one shape and a tolerance of at least zero are needed")
    energy = squared_distance(first, second)
    if case.verdict == "REFUTED" and number(case.witness["energy"]) != energy:
        raise Rejected("the witness is not the sum of squared differences")
    return "PROVED" if energy <= tolerance * tolerance else "REFUTED"


def squared_distance(first: Tensor, second: Tensor) -> Fraction:
    """The sum of squared differences of two tensors of one shape."""
    energy = Fraction(0)
    for row in range(first.rows):
        (one, unit), (other, other_unit) = first.scaled(row), second.scaled(row)
        common = max(unit, other_unit)
        a, b = common // unit, common // other_unit
        total = sum((x * a - y * b) ** 2 for x, y in zip(one, other, strict=True))
        energy += Fraction(total, common * common)
    return energy


Entries = dict[tuple[int, int], tuple[int, int]]


def _whole_tensor(part: Tensor) -> tuple[list[list[int]], int]:
    """All rows as integers, and the power of two below all of them."""
    rows = [part.scaled(index) for index in range(part.rows)]
    unit = max(below for _, below in rows)
    return [[v * (unit // below) for v in ints] for ints, below in rows], unit.bit_length() - 1


def _system(case: Case, prefix: str, read: str) -> tuple[int, int, Entries]:
    """Rows, columns and non-zero entries (value, power of two below it) of the map of a system.

    Column by column: a unit signal is written into the state and followed to the last token.
    """
    A, B, C, D = (case.subject[prefix + role] for role in ("A", "B", "C", "D"))
    if len(B.shape) != 3 or len(C.shape) != 3:
        raise Rejected("B and C must have three axes")
    steps, states, inputs = B.shape
    outputs = C.shape[1]
    if C.shape != (steps, outputs, states) or D.shape != (steps, outputs, inputs):
        raise Rejected("C or D does not fit B")
    moving, each = _transitions(case, prefix, A, steps, states)
    work = steps * inputs * (sum(len(row) for token in moving for row in token) + outputs * states)
    if work > MAX_SYSTEM_PRODUCTS or steps * each > MAX_SYSTEM_BITS:
        raise Rejected("the map takes more work than is allowed")
    (write, b), (gain, c), (through, d) = (_whole_tensor(part) for part in (B, C, D))
    found: Entries = {}

    def seen(t: int, state: list[int], column: int, power: int, direct: int) -> None:
        for o in range(outputs):
            value = sum(map(int.__mul__, gain[t * outputs + o], state))
            low = max(power, d) if direct else power
            value = value << (low - power)
            if direct:
                value += through[t * outputs + o][column % inputs] << (low - d)
            if value:
                found[t * outputs + o, column] = value, low

    for source in range(steps):
        for port in range(inputs):
            state = [write[source * states + n][port] for n in range(states)]
            column, power = source * inputs + port, b + c
            seen(source, state if read == "after" else [0] * states, column, power, 1)
            for t in range(source + 1, steps):
                before, lower = state, power
                state = [sum(v * before[n] for n, v in row) for row in moving[t]]
                power += each
                seen(
                    t, *((state, column, power) if read == "after" else (before, column, lower)), 0
                )
    return steps * outputs, steps * inputs, found


def _transitions(
    case: Case, prefix: str, A: Tensor, steps: int, states: int
) -> tuple[list[list[list[tuple[int, int]]]], int]:
    """A_t + L_t R_tᵀ at every token as rows of (column, integer), and the power of two below."""
    left, right = case.subject[prefix + "left"], case.subject[prefix + "right"]
    if A.shape not in ((steps, states), (steps, states, states)):
        raise Rejected("A does not fit B")
    if len(left.shape) != 3 or left.shape[:2] != (steps, states) or left.shape != right.shape:
        raise Rejected("left or right does not fit A")
    if steps * states * states * left.columns > MAX_SYSTEM_PRODUCTS:
        raise Rejected("the transitions take more work than is allowed")
    (own, a), (one, p), (other, q) = (_whole_tensor(part) for part in (A, left, right))
    each = max(a, p + q)
    moving = []
    for t in range(steps):
        token = []
        for m in range(states):
            row = []
            for n in range(states):
                full = len(A.shape) == 3
                value = own[t * states + m][n] if full else own[t][m] * (m == n)
                update = sum(map(int.__mul__, one[t * states + m], other[t * states + n]))
                value = (value << (each - a)) + (update << (each - p - q))
                if value:
                    row.append((n, value))
            token.append(row)
        moving.append(token)
    return moving, each


MAX_SYSTEM_PRODUCTS = 1 << 22
MAX_SYSTEM_BITS = 1 << 17


def reading(value: Any) -> str:
    """``before`` or ``after``."""
    if value not in ("before", "after"):
        raise Rejected("a state is read before or after its update")
    return str(value)


def same_system(case: Case) -> str:
    """The maps of two stored systems differ by at most ``tolerance`` in Frobenius norm."""
    one = _system(case, "", case.parameters["read"])
    other = _system(case, "other_", case.parameters["other_read"])
    tolerance = case.parameters["tolerance"]
    if one[:2] != other[:2] or tolerance < 0:
        raise Rejected("two maps of one shape and a tolerance of at least zero are needed")
    low = max((power for found in (one[2], other[2]) for _, power in found.values()), default=0)
    energy = 0
    for at in one[2].keys() | other[2].keys():
        (a, p), (b, q) = one[2].get(at, (0, 0)), other[2].get(at, (0, 0))
        energy += ((a << (low - p)) - (b << (low - q))) ** 2
    exact = Fraction(energy, 1 << 2 * low)
    if case.verdict == "REFUTED" and not tolerance**2 < number(case.witness["energy"]) <= exact:
        raise Rejected("the witness is not between the tolerance and the squared distance")
    return "PROVED" if exact <= tolerance**2 else "REFUTED"


def nonexpansive(case: Case) -> str:
    """e^g (I - b k kᵀ) never expands: e^g max(1, |1 - b |k|²|) <= 1 at every token.

    The 1 is for the directions that the key does not touch; keys of width one have none. Without
    stored decays g is zero, and all is exact.
    """
    key, rate = case.subject["key"], case.subject["rate"]
    _rank(key, 2, "key")
    if rate.shape != (key.rows,):
        raise Rejected("one rate for every key is needed")
    rates, logs = rate.row(0), [Fraction(0)] * key.rows
    if "log_decay" in case.subject:
        decays = case.subject["log_decay"]
        if decays.shape != rate.shape:
            raise Rejected("one logarithm of a decay for every key is needed")
        affordable(len(rates), BITS_OF_EXP)
        logs = decays.row(0)

    if case.verdict == "REFUTED":
        token = place(case.witness["token"], len(rates), "token")
        if exp_below(logs[token]) * step_gain(key, rates, token) <= 1:
            raise Rejected(f"token {token} is not shown to break the claim")
        return "REFUTED"
    for token, log in enumerate(logs):
        if exp_above(min(log, Fraction(MAX_EXPONENT))) * step_gain(key, rates, token) > 1:
            raise Rejected(f"token {token} is not shown to keep the claim")
    return "PROVED"


def step_gain(key: Tensor, rates: list[Fraction], token: int) -> Fraction:
    """The largest singular value of I - b k kᵀ."""
    values, unit = key.scaled(token)
    length = Fraction(sum(value * value for value in values), unit * unit)
    along = abs(1 - rates[token] * length)
    return along if key.columns == 1 else max(Fraction(1), along)


def decay(case: Case) -> str:
    """The product of stored decays e^g over any ``width`` tokens is at most ``most``."""
    logs = case.subject["log_decay"]
    width, most = case.parameters["width"], case.parameters["most"]
    if width > logs.columns or most <= 0:
        raise Rejected("the window does not fit the sequence, or the bound is not above zero")
    affordable(logs.rows, BITS_OF_EXP)
    affordable(logs.rows * logs.columns, 1 << 10)
    if case.verdict == "REFUTED":
        row = _flat(several(case.witness["batch"], whole), logs.shape[:-1])
        first = place(case.witness["token"], logs.columns - width + 1, "token")
        values = logs.log_decays(row)[first : first + width]
        if None in values or exp_below(added(v for v in values if v is not None)) <= most:
            raise Rejected("the decay of the witness is not shown to be above the bound")
        return "REFUTED"
    for row in range(logs.rows):
        worst = largest_window(logs.log_decays(row), width)
        if worst is not None and exp_above(min(worst[0], Fraction(MAX_EXPONENT))) > most:
            raise Rejected(f"row {row} is not shown to keep the claim")
    return "PROVED"


def largest_window(values: list[Fraction | None], width: int) -> tuple[Fraction, int] | None:
    """The largest sum of ``width`` numbers in a row, and the first place of its window.

    None if each window holds minus infinity.
    """
    total, empty = Fraction(0), 0
    worst: tuple[Fraction, int] | None = None
    for token, value in enumerate(values):
        total, empty = (total, empty + 1) if value is None else (total + value, empty)
        if token >= width:
            gone = values[token - width]
            total, empty = (total, empty - 1) if gone is None else (total - gone, empty)
        if token >= width - 1 and not empty and (worst is None or total > worst[0]):
            worst = total, token - width + 1
    return worst


def product_norm(case: Case) -> str:
    """No product of ``width`` stored transitions in a row has a norm of more than ``most``.

    Products are rounded to integers over a power of two, with a bound on the Frobenius norm of all
    that was rounded. Those of a window are the last tokens of one block of ``width``, times the
    first ones of the next, so that every token is multiplied twice.
    """
    A, width, most = case.subject["A"], case.parameters["width"], case.parameters["most"]
    if len(A.shape) not in (2, 3) or most <= 0:
        raise Rejected("A must have two or three axes, and the bound be above zero")
    steps, states = A.shape[:2]
    if width > steps:
        raise Rejected("the window does not fit the sequence")
    affordable(3 * steps * states**3, WIDE)
    rows, each = _transitions(case, "", A, steps, states)
    moving = [[[dict(row).get(n, 0) for n in range(states)] for row in token] for token in rows]
    sizes = [_size(token) for token in moving]
    growth = max(0, max(sizes).bit_length() - each)
    power = BITS + width * growth
    affordable(3 * steps * states**3, power + each)
    unit = [[(m == n) << power for n in range(states)] for m in range(states)]

    def blocks(tokens: Iterable[int], *, before: bool) -> list[tuple[list[list[int]], int]]:
        """Products of more and more transitions, and bounds on their errors, over 2^power."""
        found, product, error = [], unit, 0
        for token in tokens:
            pair = (product, moving[token]) if before else (moving[token], product)
            product = [[value >> each for value in row] for row in _matrix_product(*pair)]
            error = (sizes[token] * error >> each) + 1 + states
            found.append((product, error))
        return found

    for first in range(0, steps - width + 1, width):
        later = [
            (unit, 0),
            *blocks(range(first + width, min(first + 2 * width, steps)), before=False),
        ]
        earlier = blocks(range(first + width - 1, first - 1, -1), before=True)[::-1]
        for number, (right, wrong) in enumerate(earlier):
            if first + number + width > steps:
                break
            left, off = later[number]
            error = _size(left) * wrong + off * (_size(right) + wrong)
            if not _is_short(_matrix_product(left, right), error, 2 * power, most):
                token = first + number
                raise Rejected(f"the product from token {token} on is not shown to keep the claim")
    return "PROVED"


def _matrix_product(left: list[list[int]], right: list[list[int]]) -> list[list[int]]:
    columns = list(zip(*right, strict=True))
    return [[sum(map(int.__mul__, row, column)) for column in columns] for row in left]


def _size(matrix: list[list[int]]) -> int:
    """A bound from above on the Frobenius norm."""
    return isqrt(sum(value * value for row in matrix for value in row)) + 1


def _is_short(matrix: list[list[int]], error: int, power: int, most: Fraction) -> bool:
    """Whether a matrix over 2^power, off by at most ``error``, is shown to stretch at most so far.

    Its largest singular value is below b if all leading minors of b^2 - M^T M are above zero.
    """
    less = power - BITS
    rounded = [[value >> less for value in row] for row in matrix]
    bound = (most.numerator << BITS) // most.denominator - (error >> less) - 1 - len(matrix)
    if bound <= 0:
        return False
    if _size(rounded) <= bound:
        return True
    columns = list(zip(*rounded, strict=True))
    left = [[-sum(map(int.__mul__, one, other)) for other in columns] for one in columns]
    for n in range(len(left)):
        left[n][n] += bound * bound
    before = 1
    for k in range(len(left)):  # elimination without fractions: the pivots are the minors
        pivot = left[k][k]
        if pivot <= 0:
            return False
        for i in range(k + 1, len(left)):
            for j in range(k + 1, len(left)):
                left[i][j] = (left[i][j] * pivot - left[i][k] * left[k][j]) // before
        before = pivot
    return True


def decay_box(case: Case) -> str:
    """exp(-rate softplus(w.x + b)) over ``width`` tokens is at most ``most`` for all x in a box."""
    lower, upper = _box(case)
    weight, bias, rate = (case.subject[name] for name in ("weight", "bias", "rate"))
    width, most = case.parameters["width"], case.parameters["most"]
    if weight.shape != (len(lower),) or bias.shape != (1,) or rate.shape != (1,):
        raise Rejected("weight, bias and rate do not fit the box")
    weights, (offset,), (speed,) = weight.row(0), bias.row(0), rate.row(0)
    if most <= 0 or speed < 0:
        raise Rejected("the bound or the rate is out of range")
    if case.verdict == "REFUTED":
        point = _within(case.witness["input"], lower, upper)
        drive = added(w * x for w, x in zip(weights, point, strict=True)) + offset
        if exp_below(-width * speed * softplus_above(drive)) <= most:
            raise Rejected("the decay at the witness is not shown to be above the bound")
        return "REFUTED"
    corner = [a if w > 0 else b for w, a, b in zip(weights, lower, upper, strict=True)]
    least = added(w * x for w, x in zip(weights, corner, strict=True)) + offset
    if exp_above(-width * speed * softplus_below(least)) > most:
        raise Rejected("the enclosed product is above the stated one")
    return "PROVED"


def _box(case: Case) -> tuple[list[Fraction], list[Fraction]]:
    """Lower and upper bounds, checked against the range that the sentence names."""
    lower, upper = case.subject["lower"], case.subject["upper"]
    _rank(lower, 1, "lower")
    if lower.shape != upper.shape:
        raise Rejected("the box needs as many lower bounds as upper ones")
    low, high = lower.row(0), upper.row(0)
    if any(a > b for a, b in zip(low, high, strict=True)):
        raise Rejected("the box is empty")
    if case.parameters["box"] != (min(low), max(high)):
        raise Rejected("the range of the box is not the one that is stated")
    return low, high


def _within(witness: Any, lower: list[Fraction], upper: list[Fraction]) -> list[Fraction]:
    point: list[Fraction] = several(witness, number)
    if len(point) != len(lower) or any(
        not a <= x <= b for a, x, b in zip(lower, point, upper, strict=True)
    ):
        raise Rejected("the witness lies outside the box")
    return point


def locality(case: Case) -> str:
    """At least ``share`` of a softmax row lies on ``window`` for all queries of a box."""
    key = case.subject["key"]
    _rank(key, 2, "key")
    lower, upper = _box(case)
    share, scale = case.parameters["share"], case.parameters["scale"]
    start, stop = case.parameters["window"]
    if not 0 <= start < stop <= key.rows or not 0 < share < 1 or len(lower) != key.columns:
        raise Rejected("the window, the share or the box is out of range")
    near = range(start, stop)
    digits = scale.numerator.bit_length() + scale.denominator.bit_length()
    affordable(key.rows * key.columns, 64 * (64 + digits))
    affordable(key.rows, BITS_OF_EXP)
    keys = [[scale * part for part in key.row(index)] for index in range(key.rows)]
    odds = (1 - share) / share
    if case.verdict == "REFUTED":
        query = _within(case.witness["query"], lower, upper)
        scores = [added(a * b for a, b in zip(row, query, strict=True)) for row in keys]
        top = max(scores)
        inside_window = added(exp_above(scores[j] - top) for j in near)
        outside = added(exp_below(scores[j] - top) for j in range(len(keys)) if j not in near)
        if outside <= odds * inside_window:
            raise Rejected("the witness is not shown to break the claim")
        return "REFUTED"
    _leaves(case.evidence["tree"], (lower, upper), keys, near, odds)
    return "PROVED"


Box = tuple[list[Fraction], list[Fraction]]


def _leaves(tree: Any, box: Box, keys: list[list[Fraction]], near: range, odds: Fraction) -> None:
    """Check all leaves of a split tree, which cover the box by construction."""
    waiting, left = [(tree, box)], MAX_TREE_PRODUCTS
    while waiting:
        node, (low, high) = waiting.pop()
        if isinstance(node, dict) and "axis" in node:
            _exactly(node, {"axis", "high", "low"}, "a split of the tree")
            axis = place(node["axis"], len(low), "axis")
            middle = (low[axis] + high[axis]) / 2
            waiting.append((node["low"], (low, [*high[:axis], middle, *high[axis + 1 :]])))
            waiting.append((node["high"], ([*low[:axis], middle, *low[axis + 1 :]], high)))
            continue
        left -= len(keys) * len(low)
        if left < 0:
            raise Rejected(f"the leaves need more than {MAX_TREE_PRODUCTS} products")
        _exactly(node, {"log_p", "p"}, "a leaf of the tree")
        _tangent(node, (low, high), keys, near, odds)


def _tangent(leaf: Any, box: Box, keys: list[list[Fraction]], near: range, odds: Fraction) -> None:
    """For any probabilities p on the window, log sum exp >= sum p z + entropy(p)."""
    share, logs = several(leaf["p"], number), several(leaf["log_p"], number)
    if len(share) != len(near) or len(logs) != len(near):
        raise Rejected("a leaf must give one probability for every token of the window")
    if any(p < 0 for p in share) or added(share) != 1:
        raise Rejected("the probabilities of a leaf do not sum to one")
    if any(p > 0 and exp_below(high) < p for p, high in zip(share, logs, strict=True)):
        raise Rejected("a logarithm of a leaf is too small")
    lower, upper = box
    centre = [(a + b) / 2 for a, b in zip(lower, upper, strict=True)]
    radius = [(b - a) / 2 for a, b in zip(lower, upper, strict=True)]
    mean = [
        added(p * keys[j][k] for p, j in zip(share, near, strict=True)) for k in range(len(centre))
    ]
    base = added(m * c for m, c in zip(mean, centre, strict=True))
    base -= added(p * high for p, high in zip(share, logs, strict=True))
    far = Fraction(0)
    for j, row in enumerate(keys):
        if j not in near:
            score = added(a * c for a, c in zip(row, centre, strict=True))
            reach = added(abs(a - m) * r for a, m, r in zip(row, mean, radius, strict=True))
            far += exp_above(up(score + reach - base))
    if far > odds:
        raise Rejected("a leaf's bound does not reach the stated share")


# --- layers ----------------------------------------------------------------------------------

MAX_LAYER_TOKENS = 64  # tokens
MAX_LAYER_NUMBERS = 1 << 19  # tokens times stored numbers
MAX_LAYER_ROWS = 1 << 11  # tokens times the rows of a projection
MAX_LAYER_STATES = 1 << 14  # squared tokens times states
MAX_TAPS = 16  # of a convolution
MAX_LAYER_EXPONENT = 1 << 12  # of all exponents
MAX_LAYER_BITS = 256  # bits before and behind the point of stored numbers

Interval = tuple[Fraction, Fraction]
Vector = list[Interval]
# What is named after an operation encloses its results for all numbers in the intervals.


def points(values: Iterable[Fraction]) -> Vector:
    return [(value, value) for value in values]


def outward(low: Fraction, high: Fraction) -> Interval:
    """An interval around another one, whose ends have few digits; a number stays exact."""
    return (low, high) if low == high else (down(low), up(high))


def times(a: Interval, b: Interval) -> Interval:
    ends = [x * y for x in a for y in b]
    return outward(min(ends), max(ends))


def plus(parts: Iterable[Interval]) -> Interval:
    found = list(parts)
    return outward(added(low for low, _ in found), added(high for _, high in found))


def dot(a: Vector, b: Vector) -> Interval:
    if len(a) != len(b):
        raise Rejected("queries and keys have different widths")
    return plus(map(times, a, b))


def within_reach(x: Interval) -> Interval:
    """``x`` itself, an exponent that can be enclosed."""
    if x[0] < -MAX_LAYER_EXPONENT or x[1] > MAX_LAYER_EXPONENT:
        raise Rejected(f"an exponent lies beyond {MAX_LAYER_EXPONENT}")
    return x


def exponential(x: Interval) -> Interval:
    low, high = within_reach(x)
    return exp_below(low), exp_above(high)


def softplus(x: Interval) -> Interval:
    low, high = within_reach(x)
    return softplus_below(low), softplus_above(high)


def sigmoid(x: Interval) -> Interval:
    """Encloses 1 / (1 + e^-x)."""
    low, high = exponential((-x[1], -x[0]))
    return outward(1 / (1 + high), 1 / (1 + low))


def silu(x: Interval) -> Interval:
    return times(x, sigmoid(x))


def root(x: Interval) -> Interval:
    if x[0] <= 0:
        raise Rejected("the length of a vector is not above zero")
    return _root(x[0], 0), _root(x[1], 1)


def _root(x: Fraction, more: int) -> Fraction:
    shift = max(0, BITS + (x.denominator.bit_length() - x.numerator.bit_length()) // 2 + 1)
    return Fraction(isqrt((x.numerator << 2 * shift) // x.denominator) + more, 1 << shift)


def shaped(part: Tensor, *shape: int) -> Tensor:
    """``part``, whose shape has to be ``shape`` and whose numbers must not be too many or long."""
    if part.shape != shape:
        raise Rejected(f"a tensor has the shape {list(part.shape)} instead of {list(shape)}")
    for index in range(part.rows):
        ints, unit = part.scaled(index)
        if unit.bit_length() > MAX_LAYER_BITS + 1 or any(
            abs(value) >= unit << MAX_LAYER_BITS for value in ints
        ):
            raise Rejected(f"a number has more than {MAX_LAYER_BITS} bits on a side of its point")
    return part


def scalar(part: Tensor) -> Interval:
    return points(shaped(part, 1).row(0))[0]


def stored_input(parts: dict[str, Tensor], states: int, *projections: str) -> list[Vector]:
    """Every token of the input, after the work for the layer has been bounded."""
    inputs = parts["input"]
    _rank(inputs, 2, "input")
    tokens = inputs.rows
    stored = sum(prod(part.shape) for part in parts.values())
    rows = max(parts[name].shape[0] for name in projections)
    if (
        tokens > MAX_LAYER_TOKENS
        or tokens * stored > MAX_LAYER_NUMBERS
        or tokens * rows > MAX_LAYER_ROWS
        or tokens * tokens * states > MAX_LAYER_STATES
    ):
        raise Rejected("the layer takes more work than is allowed")
    return [points(shaped(inputs, *inputs.shape).row(token)) for token in range(tokens)]


def combined(weight: Tensor, vectors: list[Vector], axes: int = 2) -> list[Vector]:
    """Encloses the product of a stored matrix, or row, with every vector; exact if these are."""
    shaped(weight, *weight.shape[: axes - 1], len(vectors[0]))
    rows = [weight.scaled(index) for index in range(weight.rows)]
    found = []
    for values in vectors:
        unit = max(end.denominator for pair in values for end in pair)
        ends = [[end.numerator * (unit // end.denominator) for end in pair] for pair in values]
        now = []
        for ints, below in rows:
            pairs = list(zip(ints, ends, strict=True))
            low = sum(w * (a if w > 0 else b) for w, (a, b) in pairs)
            high = sum(w * (b if w > 0 else a) for w, (a, b) in pairs)
            now.append(outward(Fraction(low, unit * below), Fraction(high, unit * below)))
        found.append(now)
    return found


def convolved(vectors: list[Vector], taps: Tensor, bias: Tensor | None) -> list[Vector]:
    """Encloses silu of every channel convolved with its taps; the last one meets the present."""
    channels = len(vectors[0])
    if taps.columns > MAX_TAPS:
        raise Rejected(f"a convolution has more than {MAX_TAPS} taps")
    shaped(taps, channels, taps.columns)
    by_channel = [points(taps.row(channel))[::-1] for channel in range(channels)]
    start = points([Fraction(0)] * channels if bias is None else shaped(bias, channels).row(0))
    found = []
    for token in range(len(vectors)):
        now = []
        for channel in range(channels):
            seen = zip(by_channel[channel], vectors[token::-1], strict=False)
            parts = [times(tap, values[channel]) for tap, values in seen]
            now.append(silu(plus([start[channel], *parts])))
        found.append(now)
    return found


def stepped(parts: dict[str, Tensor], drives: list[Vector]) -> Vector:
    bias = scalar(parts["step_bias"])
    return [softplus(plus([*drive, bias])) for drive in drives]


def decay_logs(speed: Interval, steps: Vector) -> Vector:
    """Encloses -e^speed step at every token; their sum has to be an exponent."""
    low, high = exponential(speed)
    logs = [times((-high, -low), step) for step in steps]
    within_reach(plus(logs))
    return logs


def softmax_attention(parts: dict[str, Tensor]) -> list[Vector]:
    """Softmax of the scores of rotated queries and keys."""
    inputs = stored_input(parts, 1, "query_weight", "key_weight")
    scale = scalar(parts["scale"])
    query, key = (
        rotated(combined(parts[name], inputs), parts["cos"], parts["sin"])
        for name in ("query_weight", "key_weight")
    )
    rows = []
    for i, ours in enumerate(query):
        scores = [times(scale, dot(ours, key[j])) for j in range(i + 1)]
        top = max(high for _, high in scores)
        weights = [exponential((low - top, high - top)) for low, high in scores]
        least, most = (added(pair[end] for pair in weights) for end in (0, 1))
        rows.append([(down(low / most), up(high / least)) for low, high in weights])
    return rows


def rotated(vectors: list[Vector], cos: Tensor, sin: Tensor) -> list[Vector]:
    """Rotary positions: the first columns, in two halves, turn by the stored angles."""
    turning = cos.columns
    shaped(cos, len(vectors), turning)
    shaped(sin, len(vectors), turning)
    if turning % 2 or turning > len(vectors[0]):
        raise Rejected("the angles do not fit the heads")
    half = turning // 2
    found = []
    for token, vector in enumerate(vectors):
        sine = [-s if k < half else s for k, s in enumerate(sin.row(token))]
        angles = [points(pair) for pair in zip(cos.row(token), sine, strict=True)]
        partners = vector[half:turning] + vector[:half]
        turned = [dot([*pair], by) for *pair, by in zip(vector, partners, angles, strict=False)]
        found.append([*turned, *vector[turning:]])
    return found


def selective_state_space(parts: dict[str, Tensor]) -> list[Vector]:
    """The scan of one channel of Mamba; ``A_log`` has a number for every state."""
    states = parts["A_log"].columns
    inputs = stored_input(parts, states, "input_weight", "read_weight", "step_down_weight")
    taps, bias = parts["convolution_weight"], parts["convolution_bias"]
    values = convolved(combined(parts["input_weight"], inputs), taps, bias)
    down_projected = combined(parts["step_down_weight"], values)
    steps = stepped(parts, combined(parts["step_up_weight"], down_projected, axes=1))
    write, read = (combined(parts[name], values) for name in ("write_weight", "read_weight"))
    if not len(write[0]) == len(read[0]) == states:
        raise Rejected("read_weight and write_weight need a row for every state")
    speeds = points(shaped(parts["A_log"], states).row(0))
    logs = [decay_logs(speed, steps) for speed in speeds]
    return scanned(logs, steps, write, read, scalar(parts["D"]))


def scanned(
    logs: list[Vector], steps: Vector, write: list[Vector], read: list[Vector], through: Interval
) -> list[Vector]:
    """The map of a scan with a decay for every state, followed from every token to the last."""
    tokens = len(steps)
    decays = [[exponential(log) for log in by_token] for by_token in zip(*logs, strict=True)]
    rows: list[Vector] = [[] for _ in range(tokens)]
    for j in range(tokens):
        state = [times(steps[j], part) for part in write[j]]
        rows[j].append(plus([dot(read[j], state), through]))
        for i in range(j + 1, tokens):
            state = [times(kept, part) for kept, part in zip(decays[i], state, strict=True)]
            rows[i].append(dot(read[i], state))
    return rows


def state_space_duality(parts: dict[str, Tensor]) -> list[Vector]:
    """The scan of one head of Mamba-2, whose states share one decay."""
    states = parts["read_weight"].shape[0]
    inputs = stored_input(parts, states, "read_weight", "write_weight")
    write, read = (mixed_part(parts, name, inputs, states) for name in ("write", "read"))
    steps = stepped(parts, combined(parts["step_weight"], inputs, axes=1))
    logs = decay_logs(scalar(parts["A_log"]), steps)
    return scanned([logs] * states, steps, write, read, scalar(parts["D"]))


def mixed_part(
    parts: dict[str, Tensor], name: str, inputs: list[Vector], width: int
) -> list[Vector]:
    """What a head writes or reads: a projection, its convolution and silu."""
    values = combined(parts[f"{name}_weight"], inputs)
    if len(values[0]) != width:
        raise Rejected("what is written and what is read have different widths")
    return convolved(values, parts[f"{name}_convolution"], parts.get(f"{name}_bias"))


def gated_delta_net(parts: dict[str, Tensor]) -> list[Vector]:
    """The gated delta rule of one head; keys and queries are scaled to length one."""
    width = parts["read_weight"].shape[0]
    inputs = stored_input(parts, width, "read_weight", "write_weight")
    epsilon, scale = scalar(parts["epsilon"]), scalar(parts["scale"])
    if epsilon[0] < 0:
        raise Rejected("epsilon is below zero")
    write, read = (
        [unit_length(token, epsilon) for token in mixed_part(parts, name, inputs, width)]
        for name in ("write", "read")
    )
    rates = [sigmoid(drive) for (drive,) in combined(parts["rate_weight"], inputs, axes=1)]
    steps = stepped(parts, combined(parts["step_weight"], inputs, axes=1))
    decays = [exponential(log) for log in decay_logs(scalar(parts["A_log"]), steps)]
    rows: list[Vector] = [[] for _ in rates]
    for j in range(len(rates)):
        state = [times(rates[j], part) for part in write[j]]
        rows[j].append(times(scale, dot(read[j], state)))
        for i in range(j + 1, len(rates)):
            low, high = times(rates[i], dot(write[i], state))
            erased = [times((-high, -low), key) for key in write[i]]
            state = [times(decays[i], plus(pair)) for pair in zip(state, erased, strict=True)]
            rows[i].append(times(scale, dot(read[i], state)))
    return rows


def unit_length(parts: Vector, epsilon: Interval) -> Vector:
    """Encloses v / sqrt(|v|^2 + epsilon)."""
    squares = [(min(abs(a), abs(b)) ** 2, max(abs(a), abs(b)) ** 2) for a, b in parts]
    low, high = root(plus([*squares, epsilon]))
    return [times(part, outward(1 / high, 1 / low)) for part in parts]


Kind = Callable[[dict[str, Tensor]], list[Vector]]
Form = Callable[[Case], list[Vector]]
"""From a case to the rows of the map that it speaks of, every weight enclosed."""


def of_system(case: Case) -> list[Vector]:
    """The map of a stored system, in exact numbers."""
    rows, columns, found = _system(case, "", case.parameters["read"])
    entries = {at: Fraction(value, 1 << power) for at, (value, power) in found.items()}
    zero = Fraction(0)
    return [points(entries.get((row, k), zero) for k in range(columns)) for row in range(rows)]


def of_layer(kind: Kind, case: Case) -> list[Vector]:
    return kind(case.subject)


def formed_nonnegative(form: Form, case: Case) -> str:
    """No weight of the map of a system or a layer is below zero."""
    rows = form(case)
    if case.verdict == "REFUTED":
        row = rows[place(case.witness["row"], len(rows), "row")]
        if row[place(case.witness["column"], len(row), "column")][1] >= 0:
            raise Rejected("the weight is not shown to be below zero")
    elif any(low < 0 for row in rows for low, _ in row):
        raise Rejected("a weight is not shown to be at least zero")
    return case.verdict


def formed_row_sums(form: Form, case: Case) -> str:
    """Every row of the map of a system or a layer sums to ``target`` within ``tolerance``."""
    target, tolerance = case.parameters["target"], case.parameters["tolerance"]
    if tolerance < 0:
        raise Rejected("the tolerance is below zero")
    sums = [plus(row) for row in form(case)]
    if case.verdict == "REFUTED":
        low, high = sums[place(case.witness["row"], len(sums), "row")]
        if low <= target + tolerance and high >= target - tolerance:
            raise Rejected("the row is not shown to break the claim")
    elif any(low < target - tolerance or high > target + tolerance for low, high in sums):
        raise Rejected("a row is not shown to keep the claim")
    return case.verdict


LAYERS: dict[str, tuple[Kind, tuple[str, ...], str]] = {
    "gated_delta_net": (
        gated_delta_net,
        (
            "A_log", "epsilon", "input", "rate_weight", "read_convolution", "read_weight", "scale",
            "step_bias", "step_weight", "write_convolution", "write_weight",
        ),
        "a gated delta rule",
    ),
    "selective_state_space": (
        selective_state_space,
        (
            "A_log", "D", "convolution_bias", "convolution_weight", "input", "input_weight",
            "read_weight", "step_bias", "step_down_weight", "step_up_weight", "write_weight",
        ),
        "a selective state-space scan",
    ),
    "softmax_attention": (
        softmax_attention,
        ("cos", "input", "key_weight", "query_weight", "scale", "sin"),
        "softmax attention",
    ),
    "state_space_duality": (
        state_space_duality,
        (
            "A_log", "D", "input", "read_bias", "read_convolution", "read_weight", "step_bias",
            "step_weight", "write_bias", "write_convolution", "write_weight",
        ),
        "a state-space scan with one decay for all states",
    ),
}  # fmt: skip


class Claim(NamedTuple):
    """What a certificate of one claim has to contain, and how it is decided.

    ``proof`` and ``witness`` name the fields of the evidence and of the witness; None where the
    claim cannot be PROVED, or REFUTED.
    """

    decide: Callable[[Case], str]
    roles: tuple[str, ...]
    parameters: dict[str, Callable[[Any], Any]]
    proof: tuple[str, ...] | None
    witness: tuple[str, ...] | None
    sentence: str
    level: str = "data"
    for_proof: tuple[str, ...] = ()  # roles that only a proof needs


ROW = ("batch", "row")
SYSTEM = ("A", "B", "C", "D", "left", "right")
MAP = ("map",)
CLAIMS = {
    "causal": Claim(
        partial(each_row, causal), MAP, {}, (), ROW,
        "every weight above the diagonal is exactly zero",
    ),
    "decay": Claim(
        decay, ("log_decay",), {"most": parameter, "width": positive}, (), ("batch", "token"),
        "every product of decays over {width} tokens is at most {most}",
    ),
    "decay_box": Claim(
        decay_box, ("bias", "lower", "rate", "upper", "weight"),
        {"box": pair(parameter), "most": parameter, "width": positive}, (), ("input",),
        "for every input of the stored box, whose coordinates lie between {box[0]} and {box[1]},"
        " the decay over {width} tokens is at most {most}",
    ),
    "injective": Claim(
        injective, ("key",), {"first_row": whole, "sink": flag}, ("rows",), ("null", "row"),
        "in exact arithmetic, for every scale but zero, different queries get different softmax"
        " rows from row {first_row} on, {sink}",
    ),
    "injective_masked": Claim(
        injective_masked, ("key", "mask"), {"least": positive, "sink": flag},
        ("chosen", "sets"), ("null", "row"),
        "in exact arithmetic, for every scale but zero, different queries get different softmax"
        " rows in every row of the stored mask that shows at least {least} keys, {sink}",
    ),
    "injective_within": Claim(
        injective_within, ("factor", "key"), {"distance": parameter, "first_row": whole},
        ("rows", "shift"), ("null", "row"),
        "in exact arithmetic, for every scale but zero, different queries get different softmax"
        " rows from row {first_row} on, for all keys within {distance} of the stored ones in"
        " Frobenius norm",
        level="real", for_proof=("factor",),
    ),
    "linear_injective": Claim(
        linear_injective, ("key",), {"feature_map": word}, None, ("other", "query", "row"),
        "in exact arithmetic, different queries get different rows of normalised linear attention"
        " with features {feature_map} and without an epsilon",
    ),
    "locality": Claim(
        locality, ("key", "lower", "upper"),
        {"box": pair(parameter), "scale": parameter, "share": parameter, "window": pair(whole)},
        ("tree",), ("query",),
        "for every query of the stored box, whose coordinates lie between {box[0]} and {box[1]},"
        " at least {share} of the softmax row (scale {scale}) lies on the keys from {window[0]} up"
        " to, but not including, {window[1]}",
    ),
    "margin": Claim(
        margin, ("factor", "key"), {"bound": parameter, "first_row": whole}, ("rows", "shift"),
        None,
        "the smallest singular value of [keys, 1] up to row {first_row} is at least {bound}",
    ),
    "nonexpansive": Claim(
        nonexpansive, ("key", "rate"), {}, (), ("token",),
        "no transition I - b k k^T expands",
    ),
    "nonexpansive_decayed": Claim(
        nonexpansive, ("key", "log_decay", "rate"), {}, (), ("token",),
        "no transition e^g (I - b k k^T) expands, its decay e^g included",
    ),
    "nonnegative": Claim(
        partial(each_row, nonnegative), MAP, {}, (), ROW, "no weight is below zero"
    ),
    "product_norm": Claim(
        product_norm, ("A", "left", "right"), {"most": parameter, "width": positive}, (), None,
        "in exact arithmetic, no product of {width} stored transitions in a row stretches a state"
        " by more than {most}",
        level="real",
    ),
    "row_sums": Claim(
        partial(each_row, row_sums), MAP, {"target": parameter, "tolerance": parameter}, (), ROW,
        "every row sums to {target} within {tolerance}",
    ),
    "same_system": Claim(
        same_system, tuple(sorted((*SYSTEM, *(f"other_{role}" for role in SYSTEM)))),
        {"other_read": reading, "read": reading, "tolerance": parameter}, (), ("energy",),
        "in exact arithmetic, the map of the stored system, read {read} its update, and that of the"
        " other one, read {other_read} its update, differ by at most {tolerance} in Frobenius norm",
        level="real",
    ),
    "system_nonnegative": Claim(
        partial(formed_nonnegative, of_system), SYSTEM, {"read": reading}, (), ("column", "row"),
        "in exact arithmetic, no weight of the map of the stored system, read {read} its update, is"
        " below zero",
        level="real",
    ),
    "system_row_sums": Claim(
        partial(formed_row_sums, of_system), SYSTEM,
        {"read": reading, "target": parameter, "tolerance": parameter}, (), ("row",),
        "in exact arithmetic, every row of the map of the stored system, read {read} its update,"
        " sums to {target} within {tolerance}",
        level="real",
    ),
    "same_map": Claim(
        same_map, ("map", "other"), {"tolerance": parameter}, (), ("energy",),
        "the two maps differ by at most {tolerance} in Frobenius norm",
    ),
    "window_mass": Claim(
        partial(each_row, window_mass), MAP, {"share": parameter, "width": positive}, (), ROW,
        "at least {share} of every row's absolute weight lies on its last {width} tokens",
    ),
}  # fmt: skip

LAYER = "in exact arithmetic, with the stored weights and the stored input, "
for _kind, (_form, _roles, _words) in LAYERS.items():
    CLAIMS[f"{_kind}_nonnegative"] = Claim(
        partial(formed_nonnegative, partial(of_layer, _form)), _roles, {}, (), ("column", "row"),
        f"{LAYER}no weight of the map of {_words} is below zero", level="real",
    )  # fmt: skip
    CLAIMS[f"{_kind}_row_sums"] = Claim(
        partial(formed_row_sums, partial(of_layer, _form)), _roles,
        {"target": parameter, "tolerance": parameter}, (), ("row",),
        f"{LAYER}every row of the map of {_words} sums to {{target}} within {{tolerance}}",
        level="real",
    )  # fmt: skip


def sentence(name: str, parameters: dict[str, Any]) -> str:
    """The claim in words, from the values of its parameters."""
    claim = CLAIMS[name]
    _exactly(parameters, set(claim.parameters), f"the parameters of {name}")
    values = {part: read(parameters[part]) for part, read in claim.parameters.items()}
    return claim.sentence.format(**{part: _said(value) for part, value in values.items()})


def _said(value: Any) -> Any:
    """A value in words: floats as the shortest decimal that reads back to them."""
    if isinstance(value, tuple):
        return tuple(map(_said, value))
    if isinstance(value, bool):
        return "with a sink" if value else "without a sink"
    if isinstance(value, Fraction):
        return repr(float(value)) if is_float(value) else f"{value.numerator}/{value.denominator}"
    return shown(value) if isinstance(value, str) else value


# --- the decision ----------------------------------------------------------------------------


class Accepted(NamedTuple):
    """What a file proves: ``verdict`` on ``sentence``, which is ``claim`` with its parameters.

    What it states beyond that, ``provenance`` and ``observed``, is unchecked.
    """

    verdict: str
    sentence: str
    level: str
    identity: str
    provenance: dict[str, str]
    claim: str
    parameters: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    digests: dict[str, str]
    observed: Fraction | None


def check(path: Path) -> str:
    """The verdict that the file proves, ``PROVED`` or ``REFUTED``.

    Raises:
        Rejected: if the file, its tensors or its evidence do not prove the stated verdict.
    """
    return examine(path).verdict


def examine(path: Path) -> Accepted:
    """The same with the sentence that was decided.

    Raises:
        Rejected: as ``check``.
    """
    try:
        return _examined(path.absolute())  # "c.json" alone has no parent folder to look into
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError) as error:
        raise Rejected(f"malformed: {type(error).__name__}: {shown(str(error))}") from None
    except (RecursionError, MemoryError, OverflowError, ZeroDivisionError) as error:
        raise Rejected(f"too large to check: {type(error).__name__}") from None


def _examined(path: Path) -> Accepted:
    content = parse(read_file(path, MAX_CERTIFICATE_BYTES).decode("ascii"))
    stated = content["claim"]
    _exactly(stated, {"name", "parameters", "sentence"}, "the claim")
    claim = CLAIMS.get(word(stated["name"]))
    if claim is None:
        raise Rejected(f"the claim {shown(stated['name'])} is unknown")
    if stated["sentence"] != sentence(stated["name"], stated["parameters"]):
        raise Rejected("the sentence does not say what the parameters say")
    if content["level"] != claim.level:
        raise Rejected(f"the level of this claim is {claim.level}")
    provenance = _unchecked(content["unchecked"])
    verdict = content["verdict"]
    if verdict not in ("PROVED", "REFUTED"):
        raise Rejected(f"the verdict {shown(repr(verdict))} is neither PROVED nor REFUTED")
    proved = verdict == "PROVED"
    expected = claim.proof if proved else claim.witness
    if expected is None:
        raise Rejected(f"this claim cannot be {verdict} by a certificate")
    _exactly(content["evidence"], set(expected if proved else ()), "the evidence")
    if not proved:
        _exactly(content["witness"], set(expected), "the witness")
    elif content["witness"] is not None:
        raise Rejected("PROVED has a witness")
    roles = tuple(role for role in claim.roles if proved or role not in claim.for_proof)
    folder = path.parent.parent if path.parent.name == "certificates" else path.parent
    case = Case(
        verdict,
        load(folder, content["subject"], roles),
        {name: read(stated["parameters"][name]) for name, read in claim.parameters.items()},
        content["evidence"],
        content["witness"] or {},
    )
    derived = claim.decide(case)
    if derived != verdict:
        raise Rejected(f"states {verdict}, but the evidence gives {derived}")
    observed = content["unchecked"]["observed"]
    return Accepted(
        verdict,
        stated["sentence"],
        claim.level,
        content["identity"],
        provenance,
        stated["name"],
        case.parameters,
        {role: part.shape for role, part in case.subject.items()},
        {entry["role"]: entry["sha256"] for entry in content["subject"]},
        None if observed is None else number(observed),
    )


def _unchecked(content: Any) -> dict[str, str]:
    """The provenance that is stated, after the kinds of all unchecked fields have been seen."""
    _exactly(content, UNCHECKED, "what is unchecked")
    word(content["method"])
    several(content["assumptions"], word)
    if content["observed"] is not None:
        number(content["observed"])
    for name in ("limits", "provenance", "software"):
        if not isinstance(content[name], dict):
            raise Rejected(f"{name} must be an object")
        for value in content[name].values():
            word(value)
    return dict(content["provenance"])


def main(paths: Sequence[str]) -> int:
    """Check every file and print a line for each."""
    bad = 0
    for name in paths:
        try:
            found = examine(Path(name))
        except Rejected as error:
            bad += 1
            print(f"REJECTED {shown(name)}: {error}")
            continue
        print(f"accepted {found.verdict} {shown(name)}: {found.sentence}")
        if found.provenance:
            stated = ", ".join(f"{part} {value}" for part, value in found.provenance.items())
            print(f"    stated and not checked: {shown(stated)}")
    return 1 if bad or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
