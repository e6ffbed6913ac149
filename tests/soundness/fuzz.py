"""Both checkers on files that are honest, mutated or forged: they must agree, and never be wrong.

    python -m tests.soundness.fuzz --thousands 1

What either accepts is judged by the oracle, which reads the sentence as a person does. A run fails
if the checkers disagree, if one raises anything but its own refusal, or if an accepted sentence is
false. ``make soundness N=100`` is 100,000 files.
"""

import argparse
import json
import math
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsf.certificates import checker
from tests.soundness import second_checker
from tests.soundness.files import SIZES, Bent, canonical, honest, numbers, packed
from tests.soundness.oracle import holds

PER_POOL = 1000
"""Files that are made from one set of honest certificates."""

# --- mutations -------------------------------------------------------------------------------

SCALARS = (
    0, 1, -1, 2, 3, 10**30, 10**5000, True, False, None, "", "1", "0.5", "1e0", "1/2", "2/4", "1/3",
    "-7/3", "0x0.0p+0", "-0x0.0p+0", "0x1.0000000000000p+0", "0x1.8p+0", "0x1.0000000000000p-1",
    "0x1.fffffffffffffp+1023", "0x0.0000000000001p-1022", "0x1.0000000000000p+1024", "inf", "nan",
    "True", "../x", "\ud800", "\x1b[2K", [], {}, [0], [[]], {"a": "b"}, -4, 4, "PROVED", "REFUTED",
    "UNKNOWN", "real", "data", "identity", "relu", "elu_plus_one",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name, part in value.items():
            found += places(part, (*path, name))
    if isinstance(value, list):
        for index, part in enumerate(value):
            found += places(part, (*path, index))
    return found


def parent(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path[:-1]:
        value = value[step]
    return value


def nudged(value: Any, chance: random.Random) -> Any:
    """A value of the same kind nearby."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice((-1, 1, -value, value, 7))
    if isinstance(value, str):
        other = chance.choice((value + " ", value[:-1], value.upper(), value + "0", value[::-1]))
        return nudged_float(value, chance) if FLOAT.fullmatch(value) else other
    if isinstance(value, list) and value:
        index = chance.randrange(len(value))
        return chance.choice(
            (value[:index] + value[index + 1 :], [*value, value[index]], value[::-1], value * 2)
        )
    return value


FLOAT = re.compile(r"-?0x[01]\.[0-9a-f]+p[+-][0-9]{1,3}")


def nudged_float(text: str, chance: random.Random) -> str:
    """A float nearby, or of another size or sign."""
    number = float.fromhex(text)
    changed = chance.choice(
        (
            math.nextafter(number, math.inf), math.nextafter(number, -math.inf), -number,
            2 * number, number / 2, number * (1 + chance.gauss(0, 0.1)), number + 1, 0.0,
        )
    )  # fmt: skip
    return changed.hex() if changed else "0x0.0p+0"


def change_content(bent: Bent, chance: random.Random, pool: list[Bent]) -> None:
    """One value of the certificate becomes another one."""
    path = chance.choice(places(bent.content))
    holder, last = parent(bent.content, path), path[-1]
    kind = chance.random()
    if kind < 0.45:
        holder[last] = nudged(holder[last], chance)
    elif kind < 0.7:
        holder[last] = json.loads(json.dumps(chance.choice(SCALARS)))
    elif kind < 0.8:
        del holder[last]
    elif kind < 0.87:
        if isinstance(holder, dict):
            holder[chance.choice(("extra", "row", "sink", "modulus", "bound"))] = chance.choice(
                (0, "x")
            )
        else:
            holder.insert(last, json.loads(json.dumps(chance.choice(SCALARS))))
    else:
        other = chance.choice(pool).content
        name = chance.choice(("claim", "evidence", "witness", "subject", "verdict", "level"))
        bent.content[name] = json.loads(json.dumps(other[name]))
    if bent.content.get("verdict") == "REFUTED" and chance.random() < 0.3:
        bent.content["evidence"] = {}


def flip_verdict(bent: Bent, chance: random.Random, pool: list[Bent]) -> None:
    """The other verdict, with an invented or a borrowed witness."""
    del pool
    content = bent.content
    if content["verdict"] == "REFUTED":
        content.update(verdict="PROVED", witness=None)
        return
    token = chance.randrange(6)
    witness = chance.choice(
        (
            {"batch": [chance.randrange(2)], "row": chance.randrange(4)},
            {"batch": [chance.randrange(2)], "token": token},
            {"token": token},
            {"energy": "0x1.0000000000000p-20"},
            {
                "row": token,
                "null": [chance.randrange(-1, 2) for _ in range(chance.randrange(2, 6))],
            },
        )
    )
    content.update(verdict="REFUTED", witness=witness, evidence={})


VALUES = (0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e300, math.inf, -math.inf, math.nan, 2.0**53)


def change_number(bent: Bent, chance: random.Random, pool: list[Bent]) -> None:
    """One stored number becomes another one."""
    del pool
    file = chance.choice(list(bent.files.values()))
    entry = chance.choice(list(file.header.values()))
    kind, (start, stop) = entry["dtype"], entry["data_offsets"]
    values = numbers(kind, file.body[start:stop])
    index = chance.randrange(len(values))
    value = values[index]
    new = chance.choice(
        (chance.choice(VALUES), math.nextafter(value, math.inf), -value, 2 * value, value + 1e-3)
    )
    at = start + index * SIZES[kind]
    file.body = file.body[:at] + packed(kind, new) + file.body[at + SIZES[kind] :]


def change_shape(bent: Bent, chance: random.Random, pool: list[Bent]) -> None:
    """Another shape or type of the same number of bytes, in one place or in both."""
    del pool
    name, file = chance.choice(list(bent.files.items()))
    tensor, entry = chance.choice(list(file.header.items()))
    shape = list(entry["shape"])
    kind = chance.randrange(6)
    if kind == 0:
        shape = [-size for size in shape]
    elif kind == 1:
        shape = shape[::-1]
    elif kind == 2:
        shape = [*shape, 1] if chance.random() < 0.5 else [1, *shape]
    elif kind == 3 and shape[0] % 2 == 0:
        shape = [2, shape[0] // 2, *shape[1:]]
    elif kind == 4:
        shape = [math.prod(shape)]
    else:
        entry["dtype"] = chance.choice((*SIZES, "I64", "U8"))
    entry["shape"] = shape
    if chance.random() < 0.8:
        for stated in bent.content["subject"]:
            if (stated["file"], stated["tensor"]) == (name, tensor):
                stated.update(shape=shape, dtype=entry["dtype"])


def change_header(bent: Bent, chance: random.Random, pool: list[Bent]) -> None:
    """A header that safetensors itself refuses, or bytes that belong to no tensor."""
    del pool
    file = chance.choice(list(bent.files.values()))
    kind = chance.randrange(8)
    text = json.dumps(file.header)
    name = next(iter(file.header))
    entry = file.header[name]
    if kind == 0:
        text = text[:-1] + ", " + json.dumps(name) + ": " + json.dumps(entry) + "}"
    elif kind == 1:
        file.body += b"\0" * 8
    elif kind == 2:
        entry["data_offsets"] = [part + 8 for part in entry["data_offsets"]]
        file.body = b"\0" * 8 + file.body
        text = json.dumps(file.header)
    elif kind == 3:
        file.header["__metadata__"] = {"a": "b"}
        text = json.dumps(file.header)
    elif kind == 4:
        text = " " * chance.randrange(2) + text + " " * chance.randrange(9)
    elif kind == 5:
        text = text.replace("[", "[ ").replace(": ", ":")
    elif kind == 6:
        file.header["map" if name != "map" else "key"] = dict(entry)
        text = json.dumps(file.header)
    else:
        text = text.replace("]", ".0]", 1)
    raw = text.encode()
    file.raw = len(raw).to_bytes(8, "little") + raw + file.body


def change_text(bent: Bent, chance: random.Random, pool: list[Bent]) -> None:
    """Characters of the canonical text change, without a fitting identity."""
    del pool
    text = canonical(bent.content)
    at = chance.randrange(len(text))
    bent.text = chance.choice(
        (
            text[:at] + chance.choice(' \n0a"{}[]:,x\u00e9') + text[at + 1 :],
            text[:at] + text[at + 1 :],
            text[:at] + text[at : at + 9] + text[at:],
            text[:at],
            text.replace("\n", "\r\n"),
            text + "\n",
            "[" * 100_000,
            json.dumps(bent.content) + "\n",
        )
    )


Mutation = Callable[[Bent, random.Random, list[Bent]], None]
MUTATIONS: tuple[tuple[Mutation, int], ...] = (
    (change_content, 50),
    (change_number, 20),
    (flip_verdict, 10),
    (change_shape, 8),
    (change_header, 7),
    (change_text, 5),
)


def bent_file(chance: random.Random, pool: list[Bent]) -> Bent:
    """A file of the pool, honest or changed in one to three ways."""
    bent = chance.choice(pool).copy()
    if chance.random() < 0.03:
        return bent
    kinds, weights = zip(*MUTATIONS, strict=True)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        mutate = chance.choices(kinds, weights)[0]
        try:
            mutate(bent, chance, pool)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error):
            continue  # an earlier change has left nothing to change here
        bent.label += f", {mutate.__name__}"
    if bent.text is None and chance.random() < 0.9:
        reworded(bent.content)
    try:
        if bent.text is None and chance.random() < 0.95:
            bent.sealed()
        canonical(bent.content)
    except (KeyError, TypeError, ValueError, AttributeError):
        bent.text = bent.text or json.dumps(bent.content, default=str)
    return bent


def reworded(content: dict[str, Any]) -> None:
    """A sentence that fits the claim, where there is one."""
    try:
        claim = content["claim"]
        claim["sentence"] = checker.sentence(claim["name"], claim["parameters"])
        content["level"] = checker.CLAIMS[claim["name"]].level
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, checker.Rejected):
        return


# --- the comparison --------------------------------------------------------------------------


@dataclass
class Tally:
    """What a run of the fuzzer has seen.

    Attributes:
        counts: of verdicts, and of false, differing and crashing files.
        faults: a description of every file that fails the run.
        seconds: the longest check of either checker, of work.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory: int = 0

    def add(self, other: "Tally") -> None:
        self.counts += other.counts
        self.faults += other.faults
        self.seconds = max(self.seconds, other.seconds)
        self.memory = max(self.memory, other.memory)


REFUSALS = (checker.Rejected, second_checker.Refused)


def answer(check: Callable[[Path], str], path: Path, tally: Tally) -> str:
    """A verdict, ``rejected``, or the name of another error."""
    begun = time.process_time()
    try:
        found = check(path)
    except REFUSALS:
        found = "rejected"
    except Exception as error:  # whatever it is, it is the finding
        found = f"{type(error).__name__}: {error}"
    tally.seconds = max(tally.seconds, time.process_time() - begun)
    return found


def judged(bent: Bent, folder: Path, tally: Tally) -> None:
    """Let both checkers decide one file, and the oracle what they accept."""
    path = bent.written(folder)
    first, second = answer(checker.check, path, tally), answer(second_checker.verdict, path, tally)
    tally.counts[first] += 1
    if first != second or first not in ("PROVED", "REFUTED", "rejected"):
        tally.faults.append(f"{bent.label}: the first says {first}, the second {second}")
    elif first != "rejected":
        content = json.loads(path.read_text())
        try:
            right = holds(content, folder) == (first == "PROVED")
        except Exception as error:  # also what the oracle cannot read should not be accepted
            right, content["verdict"] = False, f"{first}, {type(error).__name__}: {error}"
        if not right:
            sentence = content["claim"]["sentence"]
            tally.faults.append(f"{bent.label}: {content['verdict']} is false: {sentence}")
    for name in bent.files:
        (folder / name).unlink()


def fuzz(seed: int, count: int = PER_POOL) -> Tally:
    """Judge ``count`` files that are made from the honest certificates of one seed."""
    tally, chance = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        pool = list(honest(seed, Path(temporary) / "honest"))
        folder = Path(temporary) / "bent"
        for bent in pool:
            judged(bent.copy(), folder, tally)
        if tally.counts["rejected"]:
            tally.faults.append("an honest file is rejected")
        for _ in range(count):
            judged(bent_file(chance, pool), folder, tally)
    tally.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return tally


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--thousands", type=int, default=1, help="thousands of files")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    options.add_argument("--processes", type=int, default=os.cpu_count())
    chosen = options.parse_args()
    seeds = range(chosen.first, chosen.first + chosen.thousands)
    tally, begun = Tally(), time.perf_counter()
    with ProcessPoolExecutor(chosen.processes) as pool:
        for done, part in enumerate(pool.map(fuzz, seeds), start=1):
            tally.add(part)
            if not done % 10:
                print(f"{done} thousand, {len(tally.faults)} faults", file=sys.stderr, flush=True)
    print(f"{sum(tally.counts.values())} files in {time.perf_counter() - begun:.0f} s")
    for verdict, count in sorted(tally.counts.items()):
        print(f"{count:8} {verdict[:80]}")
    print(f"longest check {tally.seconds:.2f} s; largest process {tally.memory >> 10} MB")
    print(f"{len(tally.faults)} disagreements, crashes or false sentences")
    for fault in tally.faults[:50]:
        print("   ", fault[:300])
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
