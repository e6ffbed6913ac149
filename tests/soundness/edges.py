"""Certificates at the borders of every rule: where a bound is met exactly, and one step beyond.

Random files rarely meet a border, so that a checker with ``<`` in the place of ``<=`` would pass
them all.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath
import torch

from dsf.certificates import checker
from dsf.certificates.certificate import written
from tests.soundness import oracle
from tests.soundness.files import Bent, File, canonical, identity

Stored = tuple[tuple[int, ...], Sequence[float]]


def made(
    name: str,
    verdict: str,
    tensors: Mapping[str, Stored],
    *,
    evidence: Mapping[str, Any] | None = None,
    witness: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Bent:
    """A certificate of our own making, with hashes, sentence and identity that fit."""
    header, body = {}, b""
    for role, (shape, values) in sorted(tensors.items()):
        data = struct.pack(f"<{len(values)}d", *values)
        header[role] = {
            "dtype": "F64",
            "shape": list(shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    file = "tensors/0.safetensors"
    content = {
        "format": "dsf-certificate",
        "format_version": 2,
        "claim": {"name": name, "parameters": _plain(parameters), "sentence": ""},
        "verdict": verdict,
        "level": checker.CLAIMS[name].level,
        "subject": [
            {"role": role, "file": file, "tensor": role, "dtype": "F64", "shape": list(shape)}
            for role, (shape, _) in sorted(tensors.items())
        ],
        "evidence": _plain(evidence or {}),
        "witness": _plain(witness),
        "unchecked": {"assumptions": [], "limits": {}, "method": "by hand", "observed": None,
                      "provenance": {}, "software": {}},
    }  # fmt: skip
    return worded(Bent(content, {file: File(header, body)}, label=f"{name} {verdict}"))


def worded(bent: Bent) -> Bent:
    """With the sentence that its parameters make, and sealed."""
    claim = bent.content["claim"]
    claim["sentence"] = checker.sentence(claim["name"], claim["parameters"])
    return bent.sealed()


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return written(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def row(index: int, batch: Sequence[int] = ()) -> dict[str, Any]:
    return {"batch": list(batch), "row": index}


def both(name: str, tensors: Mapping[str, Stored], witness: Any, **parameters: Any) -> Iterator:
    """The same numbers as PROVED and as REFUTED."""
    yield made(name, "PROVED", tensors, **parameters)
    yield made(name, "REFUTED", tensors, witness=witness, **parameters)


def maps() -> Iterator[Bent]:
    half = {"map": ((1, 2), [0.5, 0.25])}
    for tolerance in (Fraction(1, 4), Fraction(1, 8), Fraction(0), Fraction(-1, 4)):
        yield from both("row_sums", half, row(0), target=Fraction(1), tolerance=tolerance)
    yield from both("row_sums", half, row(0), target=Fraction(3, 4), tolerance=Fraction(0))
    flat = {"map": ((2,), [0.5, 0.5])}
    yield made("row_sums", "PROVED", flat, target=Fraction(1), tolerance=Fraction(0))
    for values in ([0.0, -0.0, 1.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 1.0, 1.0]):
        square = {"map": ((2, 2), values)}
        for line in (0, 1, 2, -1):
            yield from both("nonnegative", square, row(line))
            yield from both("causal", square, row(line))
    for values in ([1.0, 0.5, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]):
        yield from both("causal", {"map": ((2, 2), values)}, row(0))
    yield made("nonnegative", "PROVED", {"map": ((2,), [1.0, 1.0])})
    yield made("causal", "PROVED", {"map": ((1, 2), [1.0, 0.0])})
    yield made("causal", "PROVED", {"map": ((4,), [1.0, 0.0, 0.0, 0.0])})
    yield made("causal", "REFUTED", {"map": ((1, 2, 2), [1.0, 1.0, 0, 0])}, witness=row(0, [0]))
    yield made("causal", "REFUTED", {"map": ((1, 2, 2), [1.0, 1.0, 0, 0])}, witness=row(0))
    halves = {"map": ((2, 2), [1.0, 0.0, 0.5, 0.5])}
    for share in (
        Fraction(1, 2),
        Fraction(1, 2) + Fraction(1, 2**30),
        Fraction(0),
        Fraction(1),
        Fraction(3, 2),
        Fraction(-1, 2),
    ):
        for width in (1, 2, 3):
            yield from both("window_mass", halves, row(1), width=width, share=share)
    yield made("window_mass", "PROVED", {"map": ((1, 2), [1.0, 0.0])}, width=1, share=Fraction(0))
    ahead = {"map": ((2, 2), [0.5, 0.5, 0.0, 1.0])}  # weight on a token that is still to come
    yield from both("window_mass", ahead, row(0), width=1, share=Fraction(1))


def differences() -> Iterator[Bent]:
    pair = {"map": ((1, 2), [1.0, 0.5]), "other": ((1, 2), [1.0, 1.0])}
    for tolerance in (Fraction(1, 2), Fraction(1, 4), Fraction(1), Fraction(-1, 2), Fraction(-1)):
        for energy in (Fraction(1, 4), Fraction(1, 2)):
            yield from both("same_map", pair, {"energy": energy}, tolerance=tolerance)
    flat = {"map": ((2,), [1.0, 0.5]), "other": ((2,), [1.0, 1.0])}
    yield made("same_map", "PROVED", flat, tolerance=Fraction(1))
    other = {"map": ((1, 2), [1.0, 0.5]), "other": ((2, 1), [1.0, 0.5])}
    yield made("same_map", "PROVED", other, tolerance=Fraction(1))
    fine = {"map": ((1, 1), [1.0]), "other": ((1, 1), [1.0 + 2.0**-40])}
    yield from both("same_map", fine, {"energy": Fraction(1, 2**80)}, tolerance=Fraction(1, 2**40))


def ranks() -> Iterator[Bent]:
    """Pivots that are factors of numbers near the primes, few keys, borders of witnesses."""
    for pivot in (3.0, 5.0, 11.0, 1.0, 0.0):
        key = {"key": ((3, 1), [0.0, pivot, 2 * pivot])}
        for rows in ([0, 1], [1, 2], [1, 0], [0, 0], [0], [0, 1, 2], [0, 3]):
            for first in (1, 2):
                yield made("injective", "PROVED", key, evidence={"rows": rows}, first_row=first,
                           sink=False)  # fmt: skip
    big = float(2**30)
    square = {"key": ((3, 2), [big, 3.0, 1.0, big, 7.0, -big])}
    yield made("injective", "PROVED", square, evidence={"rows": [0, 1, 2]}, first_row=2, sink=False)
    yield made("injective", "PROVED", square, evidence={"rows": [0, 1]}, first_row=2, sink=True)
    # A determinant that the first prime divides: 2^61 - 1 = 2^60 + (2^60 - 1) and so on.
    low, high = float(2**30), float(2**31)
    divided = {"key": ((2, 2), [low, 1.0, 1.0, high])}
    yield made("injective", "PROVED", divided, evidence={"rows": [0, 1]}, first_row=1, sink=True)
    twice = {"key": ((3, 2), [1.0, 2.0, 2.0, 4.0, 3.0, 6.0])}
    for rows, sink in (([0, 1], True), ([0, 2], True), ([0, 1, 2], False)):
        yield made("injective", "PROVED", twice, evidence={"rows": rows}, first_row=2, sink=sink)
    for values in ([2.0, 4.0, 3.0, 6.0], [3.0, 1.0, 6.0, 2.0], [0.5, 0.25, 8.0, 4.0]):
        dependent = {"key": ((2, 2), values)}
        yield made("injective", "PROVED", dependent, evidence={"rows": [0, 1]}, first_row=1,
                   sink=True)  # fmt: skip
    for null in ([2, -1, 0], [0, 0, 0], [0, 0, 1], [2, -1, 1], [2, -1], [4, -2, 0], []):
        for line, first in ((2, 2), (1, 2), (1, 1), (0, 0), (3, 2), (1, 0)):
            for sink in (False, True):
                bent = made("injective", "REFUTED", twice, witness={"row": line, "null": null},
                            first_row=first, sink=sink)  # fmt: skip
                yield bent
                bent = bent.copy()
                bent.content["claim"]["parameters"]["sink"] = int(sink)
                yield bent.sealed()
            for distance in (Fraction(0), Fraction(1), Fraction(-1)):
                yield made("injective_within", "REFUTED", twice, distance=distance,
                           witness={"row": line, "null": null}, first_row=first)  # fmt: skip
    alike = {"key": ((2, 1), [1.0, 1.0])}
    for null in ([1, -1], [True, -1], [1, -1.0], ["1", -1], [1, None]):
        yield made("injective", "REFUTED", alike, witness={"row": 1, "null": null}, first_row=1,
                   sink=False)  # fmt: skip
    near = {"key": ((2, 1), [1.0, 2.0])}
    for distance in (Fraction(1), Fraction(1) - Fraction(1, 2**40), Fraction(2)):
        for null in ([1, -1], [2, -2], [1, 0]):
            yield made("injective_within", "REFUTED", near, distance=distance,
                       witness={"row": 1, "null": null}, first_row=1)  # fmt: skip


def masks() -> Iterator[Bent]:
    """Rows that show one key too few, sets that a row hides a key of, numbers that are no bits."""
    key, name = ((4, 1), [1.0, 2.0, 2.0, 5.0]), "injective_masked"
    rows = [1.0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1]
    shown = {"key": key, "mask": ((3, 4), rows)}
    few = {"key": key, "mask": ((3, 4), [1.0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1])}
    others = (
        {"key": key, "mask": ((3, 4), [1.0, 1, 0, 0, 0, 0.5, 0, 0, 0, 0, 1, 1])},
        {"key": key, "mask": ((3, 4), [1.0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 1])},
        {"key": key, "mask": ((4, 3), rows)},
        {"key": key, "mask": ((12,), rows)},
        {"key": ((4,), key[1]), "mask": ((3, 4), rows)},
    )
    sets = ([[0, 1], [2, 3]], [[0, 1], [1, 2]], [[0, 1]], [[1, 0], [2, 3]], [[0, 1, 2], [2, 3]], [],
            [[0, 1], [2, 4]], [[0, 1], [0, 3]], [[True, 1], [2, 3]], None)  # fmt: skip
    numbers = ([0, -1, 1], [0, 0, 1], [0, 1, 1], [0, -1, 2], [0, 1], [0, -1, 1, 0], [0, None, 1])
    for parts in (shown, few, *others):
        for each in sets:
            for chosen in numbers:
                evidence = {"sets": each, "chosen": chosen}
                for least in (1, 2, 3):
                    yield made(name, "PROVED", parts, evidence=evidence, least=least, sink=False)
        for sink in (False, True):
            single = {"sets": [[0], [1], [3]], "chosen": [0, 1, 2]}
            yield made(name, "PROVED", parts, evidence=single, least=1, sink=sink)
        for null in ([1, -2], [1, -1], [0, 0], [0, 1], [1, 0], [2, -4], [1], []):
            for place in (0, 1, 2, 3, -1, True):
                for least in (2, 3):
                    witness = {"row": place, "null": null}
                    yield made(name, "REFUTED", parts, witness=witness, least=least, sink=False)
                    yield made(name, "REFUTED", parts, witness=witness, least=1, sink=True)


def margins() -> Iterator[Bent]:
    """Residuals that leave exactly the stated bound."""
    key = ((2, 1), [1.0, -1.0])
    for diagonal in ([0.5, 1.0], [1.0, 1.0], [1.0, 0.0], [0.25, 1.0]):
        factor = ((2, 2), [diagonal[0], 0.0, 0.0, diagonal[1]])
        for shift in (Fraction(1), Fraction(1, 2)):
            evidence = {"rows": [0, 1], "shift": shift}
            for bound in (
                Fraction(1, 2),
                Fraction(1),
                Fraction(1, 4),
                Fraction(0),
                Fraction(-1, 2),
                Fraction(5, 4),
            ):
                tensors = {"key": key, "factor": factor}
                for name, kind in (("margin", "bound"), ("injective_within", "distance")):
                    yield made(name, "PROVED", tensors, evidence=evidence, first_row=1,
                               **{kind: bound})  # fmt: skip
    for rows in ([0, 0, 1, 1], [1, 0], [0, 1, 1]):
        empty = {"key": key, "factor": ((2, 2), [0.0, 0.0, 0.0, 0.0])}
        yield made("margin", "PROVED", empty, evidence={"rows": rows, "shift": Fraction(2)},
                   first_row=1, bound=Fraction(3, 2))  # fmt: skip
    small = {"key": key, "factor": ((1, 1), [1.0])}
    whole = {"rows": [0, 1], "shift": Fraction(1)}
    yield made("margin", "PROVED", small, evidence=whole, first_row=1,
               bound=Fraction(1, 2))  # fmt: skip
    none = {"key": key, "factor": ((2, 2), [1.0, 0.0, 0.0, 1.0])}
    yield made("margin", "PROVED", none, evidence={"rows": [], "shift": Fraction(1)}, first_row=1,
               bound=Fraction(1, 2))  # fmt: skip


def collisions() -> Iterator[Bent]:
    plane = {"key": ((2, 2), [1.0, 1.0, -1.0, -1.0])}
    queries = (
        ([1, 1], [2, 2]), ([1, 1], [2, 3]), ([1, 2], [2, 2]), ([0, 1], [0, 3]), ([0, 0], [0, 0]),
        ([0, 0], [1, 1]), ([1, 1], [0, 0]), ([1, 1], [1, 1]), ([1, -1], [1, -2]), ([1], [2]),
        ([1, 1], [-1, -1]), ([0, 1], [1, 3]), ([1, 0], [3, 1]), ([-1, 1], [-5, 2]),
        ([0, 0], [1, 3]),
    )  # fmt: skip
    for one, other in queries:
        for name in ("identity", "relu", "elu_plus_one"):
            for line in (0, 1, 2):
                witness = {
                    "query": [Fraction(part) for part in one],
                    "other": [Fraction(part) for part in other],
                    "row": line,
                }
                yield made("linear_injective", "REFUTED", plane, witness=witness, feature_map=name)


def delta_rules() -> Iterator[Bent]:
    for key, columns in (([1.0, 1.0], 2), ([1.0], 1), ([0.0, 0.0], 2), ([0.5], 1)):
        keys = ((1, columns), key)
        size = sum(part * part for part in key)
        for step in (0.0, 1.0, 2.0, 2.0 + 2**-40, -(2.0**-40), 3.0):
            rate = ((1,), [step / size if size else step])
            tensors = {"key": keys, "rate": rate}
            for token in (0, 1):
                yield from both("nonexpansive", tensors, {"token": token})
            for log in (0.0, -1.0, 2.0**-50, 1.0, -math.log(2) - 2**-40, 20_000.0, -20_000.0):
                decayed = {**tensors, "log_decay": ((1,), [log])}
                yield from both("nonexpansive_decayed", decayed, {"token": 0})
    wrong = {"key": ((1, 2), [1.0, 1.0]), "rate": ((2,), [0.5, 0.5])}
    yield made("nonexpansive", "PROVED", wrong)
    logs = {"key": ((1, 1), [1.0]), "rate": ((1,), [1.0]), "log_decay": ((2,), [0.0, 0.0])}
    yield made("nonexpansive_decayed", "PROVED", logs)


def decays() -> Iterator[Bent]:
    never = -math.inf
    rows = (
        [0.0, 0.0, 0.0], [-1.0, 0.0, -1.0], [never, never, never], [never, 0.0, -1.0],
        [-1.0, never, 0.0], [20_000.0, 0.0, 0.0], [-20_000.0, 0.0, -20_000.0], [0.0, -3.0, 1.0],
    )  # fmt: skip
    for values in rows:
        logs = {"log_decay": ((3,), values)}
        for width in (1, 2, 3, 4):
            for most in (
                Fraction(1),
                Fraction(1) - Fraction(1, 2**60),
                Fraction(0),
                Fraction(-1),
                Fraction(1, 2),
                Fraction(10) ** 300,
            ):
                yield made("decay", "PROVED", logs, width=width, most=most)
                for token in (0, 3 - width, 4 - width):
                    yield made("decay", "REFUTED", logs, width=width, most=most,
                               witness={"batch": [], "token": token})  # fmt: skip

    for odd in (math.inf, math.nan, never):
        values = {"log_decay": ((2, 2), [-1.0, -1.0, odd, -1.0])}
        for batch in (0, 1):
            witness = {"batch": [batch], "token": 1}
            yield from both("decay", values, witness, width=1, most=Fraction(1, 4))
            yield from both("decay", values, witness, width=1, most=Fraction(1, 2))


def products() -> Iterator[Bent]:
    """Products of two-by-two transitions whose norms are known, at, below and above them."""
    turn, half = [0.0, -1.0, 1.0, 0.0], [0.5, 0.0, 0.0, 0.5]
    none = ((3, 2, 1), [0.0] * 6)
    whole = {"A": ((3, 2, 2), [*half, *turn, *half]), "left": none, "right": none}
    column = ((3, 2, 1), [1.0, 0.0] * 3)
    away = {"A": ((3, 2), [0.5] * 6), "left": column, "right": ((3, 2, 1), [-0.5, 0.0] * 3)}
    for tensors, size in ((whole, Fraction(1, 2)), (away, Fraction(1, 4))):
        for most in (size, size + Fraction(1, 2**40), size - Fraction(1, 2**40), Fraction(-1)):
            for width in (1, 2, 3, 4):
                yield from both("product_norm", tensors, {"token": 0}, width=width, most=most)
    for role, odd in (("A", ((3,), [0.5] * 3)), ("left", ((3, 2), [0.0] * 6))):
        yield made("product_norm", "PROVED", whole | {role: odd}, width=2, most=Fraction(1))


def boxes() -> Iterator[Bent]:
    """Corners with weights of both signs, bounds just beside the exact decay."""
    weight, lower, upper = [1.0, -2.0, 0.0], [-1.0, 0.5, -4.0], [2.0, 3.0, -4.0]
    box = (Fraction(-4), Fraction(3))
    for speed in (1.0, 0.0, -1.0):
        with mpmath.workprec(300):
            drive = -1 - 6 + 0.25  # the first coordinate least, the second one greatest
            exact = mpmath.exp(-2 * speed * mpmath.log1p(mpmath.exp(drive)))
            above = Fraction(int(exact * 2**60) + 2, 2**60)
        for most in (
            above,
            above - Fraction(4, 2**60),
            Fraction(1),
            Fraction(0),
            Fraction(-1),
            Fraction(1, 2),
        ):
            tensors = {
                "weight": ((3,), weight), "bias": ((1,), [0.25]), "rate": ((1,), [speed]),
                "lower": ((3,), lower), "upper": ((3,), upper),
            }  # fmt: skip
            yield made("decay_box", "PROVED", tensors, box=box, width=2, most=most)
            for point in ([-1, 3, -4], [2, 3, -4], [-1, 0.5, -4], [-2, 3, -4], [-1, 4, -4],
                          [-1, 3]):  # fmt: skip
                yield made("decay_box", "REFUTED", tensors, box=box, width=2, most=most,
                           witness={"input": [Fraction(part) for part in point]})  # fmt: skip
    tensors = {**tensors, "rate": ((1,), [1.0])}
    for change in ({"bias": ((2,), [0.0, 0.0])}, {"rate": ((2,), [1.0, 1.0])},
                   {"weight": ((2,), [1.0, 1.0])}, {"upper": ((2,), [2.0, 3.0])},
                   {"upper": ((3,), [2.0, 3.0, -5.0])}):  # fmt: skip
        yield made("decay_box", "PROVED", {**tensors, **change}, box=box, width=2, most=Fraction(1))
    for stated in ((Fraction(-5), Fraction(3)), (Fraction(-4), Fraction(4))):
        yield made("decay_box", "PROVED", tensors, box=stated, width=2, most=Fraction(1))


def trees() -> Iterator[Bent]:
    """A box that has to be split, windows at both ends, and shares at their borders."""
    key = {"key": ((3, 1), [0.0, 1.0, -1.0]), "lower": ((1,), [-1.0]), "upper": ((1,), [1.0])}
    leaf = {"p": [Fraction(1)], "log_p": [Fraction(0)]}

    def split(depth: int) -> Any:
        return leaf if not depth else {"axis": 0, "low": split(depth - 1), "high": split(depth - 1)}

    told = {"box": (Fraction(-1), Fraction(1)), "scale": Fraction(1)}
    for share in (
        Fraction(15, 100),
        Fraction(2, 10),
        Fraction(24, 100),
        Fraction(2446, 10_000),
        Fraction(0),
        Fraction(1),
        Fraction(3, 2),
        Fraction(1, 3),
    ):
        for window in ([0, 1], [1, 2], [2, 3], [0, 3], [0, 0], [2, 4], [1, 1]):
            for depth in (0, 1, 4) if window == [0, 1] else (0,):
                yield made("locality", "PROVED", key, evidence={"tree": split(depth)},
                           window=window, share=share, **told)  # fmt: skip
            for query in (Fraction(1), Fraction(-1), Fraction(0), Fraction(2)):
                yield made("locality", "REFUTED", key, witness={"query": [query]}, window=window,
                           share=share, **told)  # fmt: skip
    before = {"window": [-1, 1], "share": Fraction(99, 100), **told}
    yield made("locality", "REFUTED", key, witness={"query": [Fraction(0)]}, **before)
    before |= {"window": [0, 1], "share": Fraction(-1, 2)}
    yield made("locality", "REFUTED", key, witness={"query": [Fraction(0)]}, **before)
    one, none = Fraction(1), Fraction(0)
    odd = (
        {"p": [one, none], "log_p": [none, none]}, {"p": [one], "log_p": [none, none]},
        {"p": [one], "log_p": [-one]}, {"p": [one], "log_p": [one]},
        {"p": [one / 2], "log_p": [none]}, {"p": [2 * one], "log_p": [one]},
        [], None, {"axis": 0}, {"axis": 1, "low": leaf, "high": leaf},
        {"axis": 0, "low": leaf, "high": None},
    )  # fmt: skip
    for tree in odd:
        yield made("locality", "PROVED", key, evidence={"tree": tree}, window=[0, 1],
                   share=Fraction(1, 10), **told)  # fmt: skip
    two = {"p": [Fraction(3, 2), Fraction(-1, 2)], "log_p": [Fraction(1), Fraction(0)]}
    even = {"p": [Fraction(1, 2), Fraction(1, 2)], "log_p": [Fraction(-11, 16), Fraction(-11, 16)]}
    sure = {"p": [Fraction(1), Fraction(0)], "log_p": [Fraction(0), Fraction(-50)]}
    for tree in (two, even, sure):
        yield made("locality", "PROVED", key, evidence={"tree": tree}, window=[0, 2],
                   share=Fraction(1, 5), **told)  # fmt: skip
    yield made("locality", "PROVED", {**key, "key": ((3,), [0.0, 1.0, -1.0])},
               evidence={"tree": leaf}, window=[0, 1], share=Fraction(1, 10), **told)  # fmt: skip


def numbers() -> Iterator[Bent]:
    """Other written forms of the same number, and integers of the greatest length."""
    sums = {"map": ((1, 1), [1.0])}
    long = 10**3999 + 1
    texts = (
        "0x1.0000000000000p-1", "0x0.8000000000000p+0", "0x1.0p-1", "1/2", "2/4", "1/3", "01/3",
        "1/03", "-1/3", "1/-3", "1/0", "0/3", "2/6", "0x0.0p+0", "-0x0.0p+0", "0.5", "",
        "0x1.0000000000000p+1023", "0x1.fffffffffffffp+1023", "0x1.0000000000000p-1022",
        "0x0.fffffffffffffp-1022", "0x0.8000000000000p-1021", "0x0.0000000000000p-1022",
        "0x0.8000000000000p-1022", "-0x1.0000000000000p+0", "0x1.0000000000000p+0001",
        "0x1.0000000000000p-0", "0x1.8000000000000p-10000", "0x1.0000000000000P-1",
        f"{2**1024 - 2**970}/1", f"{2**1024 - 2**971}/1", f"1/{2**1074}", f"1/{2**1075}",
        f"3/{2**1075}", f"{2**53 + 1}/1", f"{2**53 - 1}/1", f"{2**53 + 1}/{2**1074}",
        f"{(2**53 + 1) * 3}/{2**20}", "+1/3", "1 /3", "1/+3", "1//3", "/3", "1/",
        "0x1.0000000000000p+1024", "0x1.0000000000000p-1074", "0x0.0000000000001p-1022",
        "0x1.0000000000000p-1075", "0x1.0000000000000p+01", " 1/3", "1/3 ", f"{long}/3",
        f"{2**1023}/1", f"{2**1024}/1", f"{10 * long}/3", f"1/{long}", f"1/{10 * long}",
        None, True, 1, 0.5, ["1/3"],
    )  # fmt: skip
    for text in texts:
        bent = made("row_sums", "PROVED", sums, target=Fraction(1), tolerance=Fraction(1, 3))
        claim = bent.content["claim"]
        claim["parameters"]["tolerance"] = text
        for said in readings(text):
            claim["sentence"] = f"every row sums to 1.0 within {said}"
            yield bent.copy().sealed()


def readings(text: Any) -> Iterator[str]:
    """What a checker that is too lenient might say of a text that is no number."""
    yield str(text)
    if isinstance(text, str):
        for read in (float.fromhex, Fraction):
            try:
                value = Fraction(read(text))
                yield f"{value.numerator}/{value.denominator}"
                yield repr(float(value))
            except (ValueError, OverflowError, ZeroDivisionError):
                continue


def containers() -> Iterator[Bent]:
    """Names, places and headers of tensors, and certificates that were not sealed again."""

    def base() -> Bent:
        return made("nonnegative", "PROVED", {"map": ((1, 2), [1.0, 2.0])})

    for path in ("./tensors/0.safetensors", "tensors//0.safetensors", "../x/tensors/0.safetensors",
                 "tensors/../tensors/0.safetensors", "tensors/ 0.safetensors", "tensors/",
                 "tensors/.0.safetensors", "t" * 1001):  # fmt: skip
        bent = base()
        bent.content["subject"][0]["file"] = path
        yield bent.sealed()
    for name in ("a b", "", ".map", "map\n", "m" * 300, "é"):
        bent = base()
        (file,) = bent.files.values()
        file.header[name] = file.header.pop("map")
        bent.content["subject"][0]["tensor"] = name
        yield bent.sealed()
    for offsets in (
        [0],
        [0, 16, 16],
        [0, 8],
        [8, 16],
        [0, 24],
        [16, 0],
        "0",
        [0.0, 16],
        [True, 16],
    ):
        bent = base()
        (file,) = bent.files.values()
        file.header["map"]["data_offsets"] = offsets
        try:
            yield bent.sealed()
        except (TypeError, ValueError):
            bent.content["identity"] = identity(bent.content)
            yield bent
    for shape in (
        [2],
        [1, 2],
        [1, 1, 1, 1, 1, 1, 1, 2],
        [1] * 8 + [2],
        [],
        [2, 1],
        [1, 2, 1],
        [1, 0],
    ):
        bent = base()
        (file,) = bent.files.values()
        file.header["map"]["shape"] = bent.content["subject"][0]["shape"] = shape
        yield bent.sealed()
    for before, behind in ((b"", b" "), (b" ", b""), (b"", b"  "), (b"\n", b""), (b"", b"x"),
                           (b"", b"{}"), (b"", b"\v"), (b"", b"\0"), (b"", b"\t\r\n "),
                           (b"", b","), (b"{", b"}"), (b"[", b"]"), (b"", b"\xff")):  # fmt: skip
        bent = base()
        (file,) = bent.files.values()
        packed = file.packed()
        text = before + packed[8 : -len(file.body)] + behind
        file.raw = len(text).to_bytes(8, "little") + text + file.body
        yield bent.sealed()
    for raw in (b"", b"\0" * 7, b"\0" * 8, b"\2" + b"\0" * 7 + b"{}", b"\xff" * 8 + b"{}"):
        bent = base()
        (file,) = bent.files.values()
        file.raw = raw
        yield bent
    for byte in range(3, 8):  # the length of the header, beyond any file
        bent = base()
        (file,) = bent.files.values()
        packed = bytearray(file.packed())
        packed[byte] = 1
        file.raw = bytes(packed)
        yield bent.sealed()
    for key, value in (("method", "other"), ("observed", "0x1.0000000000000p+0")):
        bent = base()
        bent.content["unchecked"][key] = value
        yield bent  # not sealed again
        yield bent.copy().sealed()
    for key, value in (("format", "dsf"), ("format_version", 3), ("format_version", "2"),
                       ("format_version", True), ("level", "real"), ("verdict", "UNKNOWN"),
                       ("evidence", {"a": 1}), ("witness", {}), ("evidence", None)):  # fmt: skip
        bent = base()
        bent.content[key] = value
        yield bent.sealed()


def spellings() -> Iterator[Bent]:
    """The same content in other spacing, order, escapes and types of numbers."""
    bent = made("decay", "PROVED", {"log_decay": ((2,), [-1.0, -1.0])}, width=2, most=Fraction(1))
    text = canonical(bent.content)
    told = json.dumps(bent.content, indent=1, sort_keys=True)
    backwards = dict(reversed(bent.content.items()))
    for other in (
        text, told, text + "\n", " " + text, text[:-1] + " \n", text.replace("\n", "\r\n"),
        text.replace(": ", ":", 1), text.replace(": ", ":  ", 1), text.replace("\n ", "\n  ", 1),
        text.replace("\n ", "\n", 1), text.replace(",\n", ", \n", 1), text.replace("[]", "[ ]", 1),
        text.replace("{}", "{ }", 1), text.replace('"by hand"', '"by\\u0020hand"'),
        text.replace('"width": 2', '"width": 2.0'), text.replace('"width": 2', '"width": 2e0'),
        text.replace('"width": 2', '"width": 02'), text.replace('"width": 2', '"width": "2"'),
        text.replace('"width": 2', '"width": 2, "width": 2'), text.replace("null", "NaN", 1),
        json.dumps(backwards, indent=1) + "\n", json.dumps(bent.content, sort_keys=True) + "\n",
        "\ufeff" + text, text.replace('"by hand"', '"by h\u00e4nd"'),
        text.replace('"by hand"', '"by\x7fhand"'), text.replace('"by hand"', '"by\\u007fhand"'),
        text.replace('"by hand"', '"by\\u007Fhand"'), text.replace('"by hand"', '"by\\nhand"'),
        text.replace('"by hand"', '"by\\u000ahand"'), text.replace('"by hand"', '"by\nhand"'),
        text.replace('"by hand"', '"by\\/hand"'), text.replace('"by hand"', '"by/hand"'),
        text.replace('"by hand"', '"by\\u0080\\ud83d\\ude00"'),
        text.replace('"by hand"', '"by\\ud83d"'), text.replace('"by hand"', '"by\\u00e9"'),
        text.replace('"by hand"', '"by\\u00E9"'), text.replace('"by hand"', '"by~\\u001f"'),
        text.replace('"by hand"', '"by\\u0022hand"'), text.replace('"by hand"', '"by\\b\\f"'),
        text.replace('"by hand"', '"by\\u005chand"'), text.replace('"by hand"', '"by\\x41"'),
        text[:-1], text[:-2] + "\n}\n", text + " ", text[:-1] + "x\n", text[:-1] + "\n\n",
        text.replace('"width": 2', '"width": +2'), text.replace('"width": 2', '"width": -0'),
        text.replace('"width": 2', '"width":\n2'), text.replace('"width": 2', '"width" : 2'),
        text.replace("null", "null ", 1), text.replace("null", "nul", 1),
        text.replace("[]", "[\n  ]", 1), text.replace("{}", "{\n  }", 1),
        text.replace("[]", "[,]", 1), text.replace("{}", "{,}", 1),
        text.replace("{}", '{\n   "a": "b",\n   "a": "b"\n  }', 1),
        text.replace("{}", '{\n   "b": "b",\n   "a": "b"\n  }', 1),
        text.replace("{}", '{\n   "a": "b",\n   "b": "b"\n  }', 1),
        text.replace("{}", '{\n   "a": "b",\n   "b": "b",\n  }', 1),
        "", "[]\n", "{}\n",
    ):  # fmt: skip
        spelled = bent.copy()
        spelled.text = other
        yield spelled
        again = bent.copy()
        again.text = relabelled(other)
        yield again


def relabelled(text: str) -> str:
    """The text with the hash of itself, line of the identity left out, whatever its spelling is."""
    found = re.search(r'\n *"identity" *: *"([0-9a-f]{64})" *,?', text)
    if found is None:
        return text
    rest = text[: found.start()] + text[found.end() :]
    digest = hashlib.sha256(rest.encode("utf-8", "surrogatepass")).hexdigest()
    return text[: found.start(1)] + digest + text[found.end(1) :]


def systems() -> Iterator[Bent]:
    """Maps of two tokens by their coefficients, such as [[1, 0], [0.5, 1]]."""

    def stored(front: str = "", read: float = 1.0, direct: float = 0.0) -> dict[str, Stored]:
        one = (2, 1, 1)
        parts = {
            "A": ((2, 1), [0.5, 0.5]), "B": (one, [1.0, 1.0]), "C": (one, [1.0, read]),
            "D": (one, [0.0, direct]), "left": (one, [0.0, 0.0]), "right": (one, [0.0, 0.0]),
        }  # fmt: skip
        return {front + role: part for role, part in parts.items()}

    for reading in ("after", "before"):
        for tolerance in (Fraction(1, 4), Fraction(1, 4) - Fraction(1, 2**40), Fraction(-1)):
            for line in (0, 1, 2):
                yield from both(
                    "system_row_sums", stored(), {"row": line}, read=reading,
                    target=Fraction(5, 4), tolerance=tolerance,
                )  # fmt: skip
        level = stored(direct=-0.5 if reading == "after" else 0.0)
        yield from both(
            "system_row_sums", level, {"row": 1}, read=reading,
            target=Fraction(1), tolerance=Fraction(0),
        )  # fmt: skip
        for read in (1.0, -(2.0**-60)):
            for line, column in ((1, 0), (0, 0), (2, 0), (1, 2)):
                place = {"row": line, "column": column}
                yield from both("system_nonnegative", stored(read=read), place, read=reading)
        pair = stored() | stored("other_", direct=0.5)
        for tolerance in (Fraction(1, 2), Fraction(1, 4), Fraction(-1, 2)):
            for energy in (Fraction(1, 4), Fraction(1, 2)):
                yield from both(
                    "same_system", pair, {"energy": energy}, read=reading, other_read=reading,
                    tolerance=tolerance,
                )  # fmt: skip
        pair = stored() | stored("other_")
        yield from both(
            "same_system", pair, {"energy": Fraction(1)}, read="after", other_read=reading,
            tolerance=Fraction(0),
        )  # fmt: skip


Parts = dict[str, Stored]
KINDS: dict[str, Parts] = {
    "softmax_attention": {
        "cos": ((2, 2), [1.0, 1.0, 0.5, 0.25]), "sin": ((2, 2), [0.0, 0.0, 0.75, -0.5]),
        "input": ((2, 1), [1.0, -1.0]), "scale": ((1,), [0.5]),
        "query_weight": ((3, 1), [1.0, -0.5, 2.0]), "key_weight": ((3, 1), [0.25, 1.0, -1.0]),
    },
    "selective_state_space": {
        "A_log": ((2,), [0.0, -1.0]), "D": ((1,), [0.5]), "convolution_bias": ((1,), [0.25]),
        "convolution_weight": ((1, 2), [0.5, 1.0]), "input": ((2, 1), [1.0, 2.0]),
        "input_weight": ((1, 1), [1.0]), "read_weight": ((2, 1), [1.0, -2.0]),
        "step_bias": ((1,), [0.0]), "step_down_weight": ((1, 1), [1.0]),
        "step_up_weight": ((1,), [-1.0]), "write_weight": ((2, 1), [1.0, 0.5]),
    },
    "state_space_duality": {
        "A_log": ((1,), [0.0]), "D": ((1,), [0.5]), "input": ((2, 1), [1.0, 2.0]),
        "read_bias": ((2,), [0.0, 0.0]), "read_convolution": ((2, 1), [1.0, 1.0]),
        "read_weight": ((2, 1), [1.0, -1.0]), "step_bias": ((1,), [0.0]),
        "step_weight": ((1,), [1.0]), "write_bias": ((2,), [0.0, 0.5]),
        "write_convolution": ((2, 2), [1.0, 1.0, 0.5, 0.5]), "write_weight": ((2, 1), [1.0, 1.0]),
    },
    "gated_delta_net": {
        "A_log": ((1,), [0.0]), "epsilon": ((1,), [0.25]), "input": ((2, 1), [1.0, 2.0]),
        "rate_weight": ((1,), [1.0]), "read_convolution": ((2, 1), [1.0, 1.0]),
        "read_weight": ((2, 1), [1.0, 1.0]), "scale": ((1,), [0.5]), "step_bias": ((1,), [0.0]),
        "step_weight": ((1,), [-1.0]), "write_convolution": ((2, 2), [1.0, 1.0, 0.5, 0.5]),
        "write_weight": ((2, 1), [1.0, -1.0]),
    },
}  # fmt: skip
SILENT: Parts = {"read_weight": ((2, 1), [0.0, 0.0])}
"""Reads nothing, so that the map is D on its diagonal and zero elsewhere, exactly."""


def layers() -> Iterator[Bent]:
    """Every property of every kind, on both sides of its border."""
    one = Fraction(1)
    for kind, parts in KINDS.items():
        for line, column in ((0, 0), (1, 0), (1, 1), (0, 1), (2, 0), (-1, 0), (1, True)):
            place = {"row": line, "column": column}
            yield from both(f"{kind}_nonnegative", parts, place)
        for tolerance in (Fraction(1, 2**90), Fraction(10), -one, Fraction(0)):
            for line in (0, 1, 2, -1):
                for target in (one, 2 * one):
                    yield from both(f"{kind}_row_sums", parts, {"row": line}, target=target,
                                    tolerance=tolerance)  # fmt: skip
        yield from misshapen(kind, parts)
    yield from exact_layers()
    yield from tight_layers()
    yield from far_layers()
    yield from large_layers()


def misshapen(kind: str, parts: Parts) -> Iterator[Bent]:
    """Every tensor with one number more along an axis, with one axis more, and as a vector."""
    for role, (shape, values) in parts.items():
        grown = [
            ((*shape[:axis], size + 1, *shape[axis + 1 :]), math.prod(shape) // size * (size + 1))
            for axis, size in enumerate(shape)
        ]
        others = [*grown, ((1, *shape), len(values)), ((*shape, 1), len(values)),
                  ((len(values),), len(values))]  # fmt: skip
        for other, count in others:
            if other != shape:
                changed = {**parts, role: (other, [*values, *[0.5] * (count - len(values))])}
                yield made(f"{kind}_nonnegative", "PROVED", changed)
                yield made(f"{kind}_row_sums", "REFUTED", changed, target=Fraction(9),
                           tolerance=Fraction(0), witness={"row": 1})  # fmt: skip
        for value in (2.0**-256, 2.0**-257, 2.0**255, 2.0**256, -(2.0**256), 1 + 2.0**-52):
            changed = {**parts, role: (shape, [value, *values[1:]])}
            yield made(f"{kind}_nonnegative", "PROVED", changed)
            yield made(f"{kind}_row_sums", "REFUTED", changed, target=Fraction(9),
                       tolerance=Fraction(0), witness={"row": 1})  # fmt: skip


def exact_layers() -> Iterator[Bent]:
    """Layers whose maps are dyadic numbers, so that bounds can be met exactly."""
    base = KINDS["state_space_duality"] | SILENT
    tiny, name = Fraction(1, 2**200), "state_space_duality_row_sums"
    for through in (0.5, 0.0, -0.5, -(2.0**-200), 2.0**-200):
        parts = base | {"D": ((1,), [through])}
        for place in ({"row": 0, "column": 0}, {"row": 1, "column": 0}):
            yield from both("state_space_duality_nonnegative", parts, place)
        for target in (Fraction(through), Fraction(through) + 1, Fraction(through) - 1):
            for tolerance in (Fraction(0), Fraction(1), 1 - tiny, tiny):
                yield from both(name, parts, {"row": 1}, target=target, tolerance=tolerance)
    delta = KINDS["gated_delta_net"]
    for epsilon, key in ((0.0, 0.0), (2.0**-40, 0.0), (-(2.0**-40), 1.0), (0.0, 1.0)):
        parts = delta | {"epsilon": ((1,), [epsilon]), "write_weight": ((2, 1), [key, 0.0])}
        yield from both("gated_delta_net_nonnegative", parts, {"row": 1, "column": 0})


def tight_layers() -> Iterator[Bent]:
    """Bounds within 2^-100 of what the oracle computes: another formula would not meet them."""
    near = Fraction(1, 2**100)
    for kind, words in zip(oracle.KINDS, ("a gated delta rule", "a selective state-space scan",
            "softmax attention", "a state-space scan with one decay for all states"),
            strict=True):  # fmt: skip
        for tokens in (1, 2, 3):
            inputs = [1.0, KINDS[kind]["input"][1][1], -0.5][:tokens]
            parts = KINDS[kind] | {"input": ((tokens, 1), inputs)}
            for angle in {"cos", "sin"} & parts.keys():
                parts[angle] = ((tokens, 2), [*KINDS[kind][angle][1], 0.5, 0.75][: 2 * tokens])
            arrays = {role: torch.tensor(values, dtype=torch.float64).reshape(shape)
                      for role, (shape, values) in parts.items()}  # fmt: skip
            with mpmath.workdps(oracle.DIGITS):
                rows = oracle.FORMS[words](arrays)
                sums = [cut(sum(row)) for row in rows]
            for target in (Fraction(-64), Fraction(64)):  # the row furthest away is another one
                off = max(abs(each - target) for each in sums)
                for tolerance in (off + near, off - near):
                    yield made(f"{kind}_row_sums", "PROVED", parts, target=target,
                               tolerance=tolerance)  # fmt: skip


def cut(value: Any) -> Fraction:
    """A number of mpmath to 160 places."""
    return Fraction(int(mpmath.floor(value * 2**160)), 2**160)


def far_layers() -> Iterator[Bent]:
    """Exponents at the largest size, and one step beyond."""
    far = math.nextafter(4096.0, math.inf)
    for z in (4096.0, -4096.0, far, -far):
        for kind, role in (
            ("state_space_duality", "step_bias"), ("state_space_duality", "read_bias"),
            ("state_space_duality", "write_bias"), ("state_space_duality", "A_log"),
            ("selective_state_space", "step_bias"), ("selective_state_space", "convolution_bias"),
            ("selective_state_space", "A_log"), ("gated_delta_net", "step_bias"),
            ("gated_delta_net", "rate_weight"), ("gated_delta_net", "read_weight"),
        ):  # fmt: skip
            shape, values = KINDS[kind][role]
            still = {"A_log": KINDS[kind]["A_log"] if role == "A_log" else (
                KINDS[kind]["A_log"][0], [-100.0] * len(KINDS[kind]["A_log"][1]))}  # fmt: skip
            quiet = {"input": ((2, 1), [1.0, 0.0])} if role.endswith("weight") else {
                "input": ((2, 1), [0.0, 0.0])}  # fmt: skip
            parts = KINDS[kind] | still | quiet | {role: (shape, [z] * len(values))}
            yield made(f"{kind}_nonnegative", "PROVED", parts)
            yield made(f"{kind}_row_sums", "PROVED", parts, target=Fraction(0),
                       tolerance=Fraction(2**40))  # fmt: skip
        flat: Parts = {
            "cos": ((2, 2), [1.0] * 4), "sin": ((2, 2), [0.0] * 4), "input": ((2, 1), [0.0, 1.0]),
            "scale": ((1,), [1.0]), "query_weight": ((2, 1), [1.0, 0.0]),
            "key_weight": ((2, 1), [z, 0.0]),
        }  # fmt: skip
        yield made("softmax_attention_nonnegative", "PROVED", flat)
        yield made("softmax_attention_row_sums", "PROVED", flat, target=Fraction(1),
                   tolerance=Fraction(1, 2**90))  # fmt: skip


def large_layers() -> Iterator[Bent]:
    """Layers at the limits of the format, and one step beyond."""
    for tokens, model, rows, turning in (
        (65, 1, 2, 2), (64, 116, 2, 2), (64, 117, 2, 2), (2, 1, 1024, 2),
        (2, 1, 1025, 2), (2, 1, 2, 4), (2, 1, 3, 3), (2, 1, 1, 2),
    ):  # fmt: skip
        parts: Parts = {
            "cos": ((tokens, turning), [1.0] * tokens * turning),
            "sin": ((tokens, turning), [0.0] * tokens * turning),
            "input": ((tokens, model), [0.5] * tokens * model), "scale": ((1,), [1.0]),
            "query_weight": ((rows, model), [0.5] * rows * model),
            "key_weight": ((rows, model), [0.0] * rows * model),
        }  # fmt: skip
        yield made("softmax_attention_nonnegative", "PROVED", parts)
    for tokens, states, taps in ((64, 4, 1), (64, 5, 1), (2, 1, 16), (2, 1, 17)):
        for kind, bias in (("state_space_duality", True), ("gated_delta_net", False)):
            if tokens == 64 and not bias:
                continue
            sized: Parts = {"input": ((tokens, 1), [0.5] * tokens)}
            for name in ("read", "write"):
                sized[f"{name}_weight"] = ((states, 1), [0.5] * states)
                width = taps if name == "read" else 1
                sized[f"{name}_convolution"] = ((states, width), [0.5] * states * width)
                if bias:
                    sized[f"{name}_bias"] = ((states,), [0.5] * states)
            parts = KINDS[kind] | sized
            yield made(f"{kind}_nonnegative", "PROVED", parts)


def edges() -> Iterator[Bent]:
    """All of them."""
    for group in (maps, differences, ranks, masks, margins, collisions, delta_rules, decays,
                  products, boxes, trees, systems, layers, numbers, containers,
                  spellings):  # fmt: skip
        yield from group()
