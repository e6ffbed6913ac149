"""Mutation testing of both checkers: how many small changes of their source the tests notice.

    python -m tests.soundness.mutants --module checker --share 0.2 --record mutants.jsonl
    python -m tests.soundness.mutants --record mutants.jsonl --write

Every comparison, operator, constant, condition and ``raise`` of a checker is changed, one at a
time, and the changed checker decides a fixed set of files: honest ones, and mutated ones as the
fuzzer draws them; its exponentials have to enclose at some points. A mutant is killed if one answer
differs, or if it raises or hangs. Survivors are listed with their line.

Mutants are drawn in a fixed random order, and a record is continued where it ended as long as the
checker is the same. ``--write`` puts the counts of a record and its survivors, with the reasons of
``REASONS``, into the page on untrusted files.
"""

import argparse
import ast
import hashlib
import json
import random
import re
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import mpmath

from dsf.certificates import checker
from tests.soundness import second_checker
from tests.soundness.edges import edges
from tests.soundness.files import Bent, honest
from tests.soundness.fuzz import bent_file, nudged, parent, places, reworded

MODULES = {"checker": checker, "second_checker": second_checker}
ENTRY = {"checker": "check", "second_checker": "verdict"}
SECONDS = 60  # of work for one mutant on all files; other programs on the machine do not count

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "untrusted_files.md"
BEGIN, END = "<!-- mutants -->\n", "<!-- end of mutants -->"

SWAPS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.Mult,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One changed source, where it was changed, and the lines of the statement around that."""

    line: int
    change: str
    tree: ast.Module
    span: range


Place = tuple[int, int]
"""The number of a node in the order of ``ast.walk``, and which of its changes."""


def all_places(source: str) -> list[Place]:
    """Where the source can be changed, in a fixed random order."""
    found = [
        (number, choice)
        for number, node in enumerate(ast.walk(ast.parse(source)))
        for choice in range(len(changes(node)))
    ]
    random.Random(1).shuffle(found)
    return found


def mutant(source: str, place: Place) -> Mutant:
    """The source with one change."""
    tree = ast.parse(source)
    spans = _spans(tree)
    node = next(islice(ast.walk(tree), place[0], None))
    line = getattr(node, "lineno", 0)
    words, apply = changes(node)[place[1]]
    apply()
    span = spans.get(line, range(line, line + 1))
    return Mutant(line, words, ast.fix_missing_locations(tree), span)


def _spans(whole: ast.Module) -> dict[int, range]:
    """For every line of a function, the lines of the innermost statement there."""
    found = {}
    for function in ast.walk(whole):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.stmt):
                    body = getattr(node, "body", None)
                    last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
                    for line in range(node.lineno, max(last, node.lineno) + 1):
                        found[line] = range(node.lineno, max(last, node.lineno) + 1)
    return found


Change = tuple[str, Callable[[], None]]


def changes(node: ast.AST) -> list[Change]:
    """What can be changed about a node, in words and as a function that does it."""
    if isinstance(node, ast.Compare):
        return [
            (f"{type(node.ops[0]).__name__} -> {other.__name__}", partial(_set_first, node, other))
            for other in SWAPS.get(type(node.ops[0]), ())
        ]
    if isinstance(node, ast.BinOp | ast.BoolOp):
        return [
            (f"{type(node.op).__name__} -> {other.__name__}", partial(setattr, node, "op", other()))
            for other in SWAPS.get(type(node.op), ())
        ]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return [
            (f"{node.value} -> {value}", partial(setattr, node, "value", value))
            for value in (node.value + 1, node.value - 1)
        ]
    if isinstance(node, ast.If | ast.IfExp):
        return [
            (f"condition -> {value}", partial(setattr, node, "test", ast.Constant(value)))
            for value in (False, True)
        ]
    return _removals(node)


def _set_first(node: ast.Compare, other: type) -> None:
    node.ops[0] = other()


def _removals(node: ast.AST) -> list[Change]:
    """Signs, refusals and demands that can be left out."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return [("sign removed", partial(setattr, node, "op", ast.UAdd()))]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        twice = ast.UnaryOp(ast.Not(), node.operand)
        return [("not removed", partial(setattr, node, "operand", twice))]
    if isinstance(node, ast.If) or not isinstance(node, ast.stmt):
        return []
    if isinstance(node, ast.Raise) and node.exc is not None:
        return [("raise removed", partial(setattr, node, "__class__", ast.Pass))]
    call = getattr(node, "value", None)
    if isinstance(node, ast.Expr) and getattr(getattr(call, "func", None), "id", "") == "need":
        return [("need removed", partial(setattr, node, "value", ast.Constant(None)))]
    return []


def loaded(tree: ast.Module, name: str) -> types.ModuleType:
    """A module made of a changed source."""
    module = types.ModuleType(f"mutant_{name}")
    module.__file__ = str(MODULES[name].__file__)
    sys.modules[module.__name__] = module
    exec(compile(tree, module.__file__, "exec"), module.__dict__)
    return module


def answer(check: Callable[[Path], str], path: Path) -> str:
    """The verdict, or ``rejected``; any other error kills a mutant by being another answer."""
    try:
        return check(path)
    except Exception as error:
        kind = type(error).__name__
        return "rejected" if kind in ("Rejected", "Refused") else kind


@dataclass(frozen=True)
class Trial:
    """A file, what the checker says of it, which of its lines say so, the last, and how fast."""

    path: Path
    wanted: str
    lines: frozenset[int]
    last: int
    seconds: float


def trial(check: Callable[[Path], str], path: Path, source: str) -> Trial:
    """Decide a file and remember every line of the checker that took part."""
    seen: set[int] = set()
    last, began = 0, time.process_time()

    def lines(frame: types.FrameType, event: str, _argument: object) -> Any:
        nonlocal last
        if event == "line":
            last = frame.f_lineno
            seen.add(last)
        return lines

    def calls(frame: types.FrameType, _event: str, _argument: object) -> Any:
        if frame.f_code.co_filename != source:
            return None
        seen.add(frame.f_lineno)
        return lines

    sys.settrace(calls)
    try:
        said = answer(check, path)
    finally:
        sys.settrace(None)
    return Trial(path, said, frozenset(seen), last, time.process_time() - began)


def files(folder: Path, count: int) -> list[Path]:
    """Files at the borders, honest ones, every value of those changed once, and mutated ones."""
    paths = [file.written(folder / f"e{number}") for number, file in enumerate(edges())]
    chance = random.Random(7)
    for seed in (11, 12):
        pool: list[Bent] = list(honest(seed, folder / "honest"))
        paths += [file.copy().written(folder / f"h{seed}-{k}") for k, file in enumerate(pool)]
        for k, file in enumerate(pool):
            each = enumerate(systematic(file, chance))
            paths += [bent.written(folder / f"s{seed}-{k}-{n}") for n, bent in each]
        bent = (bent_file(chance, pool) for _ in range(count))
        paths += [file.written(folder / f"m{seed}-{k}") for k, file in enumerate(bent)]
    return paths


def systematic(file: Bent, chance: random.Random) -> Iterator[Bent]:
    """A file with every value of its content nudged, one at a time."""
    for path in places(file.content):
        bent = file.copy()
        holder = parent(bent.content, path)
        holder[path[-1]] = nudged(holder[path[-1]], chance)
        reworded(bent.content)
        try:
            yield bent.sealed()
        except (KeyError, TypeError, ValueError, AttributeError):
            continue


LIMITS = {
    "checker": {
        "MAX_CERTIFICATE_BYTES": 16 << 20, "MAX_TENSOR_BYTES": 256 << 20,
        "MAX_HEADER_BYTES": 64 << 10,
        "MAX_INTEGER_DIGITS": 4000, "MAX_PARAMETER_CHARACTERS": 2200, "MAX_DEPTH": 200,
        "MAX_WORK_BITS": 1 << 34, "BITS_OF_EXP": 1 << 17, "MAX_TREE_PRODUCTS": 1 << 20,
        "MAX_EXPONENT": 1 << 14, "MAX_LAYER_TOKENS": 64, "MAX_LAYER_NUMBERS": 1 << 19,
        "MAX_LAYER_ROWS": 1 << 11, "MAX_LAYER_STATES": 1 << 14, "MAX_TAPS": 16,
        "MAX_LAYER_EXPONENT": 1 << 12, "MAX_LAYER_BITS": 256, "MAX_SYSTEM_PRODUCTS": 1 << 22,
        "MAX_SYSTEM_BITS": 1 << 17,
    },
    "second_checker": {
        "MIB": 1 << 20, "DIGITS": 4000, "DEPTH": 200, "REACH": 1 << 14, "FARTHEST": 1 << 12,
    },
}  # fmt: skip
"""What the page on the format says, for constants that only large files would meet."""


def keeps_limits(module: types.ModuleType, name: str) -> bool:
    """Whether the limits are those of the page on the format."""
    return all(getattr(module, limit) == value for limit, value in LIMITS[name].items())


def is_bounded(module: types.ModuleType, name: str) -> bool:
    """Whether exponentials far out are bounded as the page on the format says."""
    far, one = Fraction(1 << 14), Fraction(1)
    if name == "checker":
        least, most = module.exp_below(far + 1), module.exp_above(-far - 1)
        none = module.exp_below(-far - 1)
        try:
            module.exp_above(far + 1)
        except module.Rejected:
            unbounded = True
        else:
            unbounded = False
        ends = module.exp_below(far), module.exp_above(-far)
    else:
        least, above = module.exponential(far + 1)
        none, most = module.exponential(-far - 1)
        unbounded = above is None
        ends = module.exponential(far)[0], module.exponential(-far)[1]
    return bool(unbounded and none == 0 and least >= ends[0] > one > ends[1] >= most > 0)


POINTS = [Fraction(n, 7) for n in (-6000, -700, -80, -9, -1, 0, 1, 5, 90, 800, 6000)]


def encloses(module: types.ModuleType, name: str) -> bool:
    """Whether exponentials and logarithms are enclosed, and tightly."""
    with mpmath.workprec(400):
        for x in POINTS:
            exact = mpmath.exp(mpmath.mpf(x.numerator) / x.denominator)
            soft = mpmath.log1p(exact)
            if name == "checker":
                low, high = module.exp_below(x), module.exp_above(x)
                under, over = module.softplus_below(x), module.softplus_above(x)
            else:
                (low, high), (under, over) = module.exponential(x), module.soft(x)
            ends = [mpmath.mpf(v.numerator) / v.denominator for v in (low, high, under, over)]
            if not (ends[0] <= exact <= ends[1] and ends[2] <= soft <= ends[3]):
                return False
            if ends[1] - ends[0] > exact / mpmath.mpf(2) ** 140:
                return False
            if ends[3] - ends[2] > soft / mpmath.mpf(2) ** 60:
                return False
    return True


class TooLong(Exception):
    """A mutant that does not end."""


def is_killed(mutant: Mutant, name: str, trials: list[Trial], everywhere: set[int]) -> bool:
    """Whether one of the files, or an enclosure, tells the mutant from the checker.

    Only files that reach the changed line can; what is changed outside functions concerns all.
    Those that are refused there tell it most often and come first, then those decided fastest.
    """
    reached = [each for each in trials if not each.lines.isdisjoint(mutant.span)]
    cases = trials if everywhere.isdisjoint(mutant.span) else reached
    cases = sorted(cases, key=lambda each: (each.last not in mutant.span, each.seconds))

    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        module = loaded(mutant.tree, name)
        check = getattr(module, ENTRY[name])
        if not (keeps_limits(module, name) and is_bounded(module, name)):
            return True
        told = any(answer(check, each.path) != each.wanted for each in cases)
        return told or not encloses(module, name)
    except (Exception, SystemExit):  # a mutant may take itself for the program
        return True
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


LATER = "a later rule refuses the same files"
EARLIER = "an earlier rule refuses the same files"
SAME = "both ways give the same answer"
SLACK = "an end of an enclosure moves by less than 2^-140, which no file tells"
LIMIT = "only a file beyond that limit would tell"
PRIMES = "only determinants that both primes divide tell; a test has one"
OUTSIDE = "the corpus calls the function; another test runs the program"
REASONS: dict[str, dict[str, str]] = {
    "checker": {
        r"the length of a vector is not above zero": LATER,
        r"width \* width > 1 << 27|larger than|left < 0|left.columns > LARGEST|^work = ": LIMIT,
        r"stored_input\(parts, 1": LIMIT,
        r"is not finite|len\(a\) != len\(b\)": EARLIER,
        r"any\(null\[:-1\]\)": "no witness of the corpus is such a direction",
        r"Fraction\(1, 1 << BITS\)|above \+ 1|BITS = 160|step > best|outward\(a\[0\]": SLACK,
        r"x > MAX_EXPONENT // 2": SLACK,
        r"any\(_full_rank|rows\[column \+ 1 :\]": PRIMES,
        r"len\(values\[0\]\)": SAME,
        r"bottom > 0|expected is None|verdict not in|isinstance\(content, dict\)": LATER,
        r"stop - start != SIZES|len\(weights.shape\) < 2": LATER,
        r"keys are not fewer than": "it is the text of a message",
    },
    "second_checker": {
        r"len\(raw\) >= 8|<= 1000 and PATH": LATER,
        r"REACH // 2|1 << 150|max\(least, Fraction|exponential\(Fraction\(REACH\)\)": SLACK,
        r"good == len\(names\)|ascii\(name\)|sys.argv": OUTSIDE,
        r"e >= least else|min\(\[0, \*odd\]\)|if steps else Span|raw\[8:end\].isascii": SAME,
        r"identity_line = 0, 0|modular\(matrix": SAME,
        r"header is too long|too much work|too many leaves|a file is too large": LIMIT,
        r"key.integers\(line\)\[1\], 0": "no margin between whole keys is that close to its bound",
    },
}
"""Patterns of a source line and a change, and why such a survivor is no gap."""


def reason(name: str, line: str, change: str) -> str:
    """Why a survivor is no gap; ``open`` where nobody has said so."""
    told = f"{line} | {change}"
    return next((why for pattern, why in REASONS[name].items() if re.search(pattern, told)), "open")


class Record:
    """What is known of every mutant that was tried: one JSON line for each."""

    def __init__(self, path: Path):
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self.rows = [json.loads(line) for line in text.splitlines()]

    def of(self, name: str) -> dict[Place, dict[str, Any]]:
        """The rows of the present checker."""
        now = digest(name)
        return {
            (row["node"], row["choice"]): row
            for row in self.rows
            if (row["module"], row["source"]) == (name, now)
        }

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def source_of(name: str) -> str:
    return Path(str(MODULES[name].__file__)).read_text(encoding="utf-8")


def digest(name: str) -> str:
    return hashlib.sha256(source_of(name).encode()).hexdigest()[:16]


def tried(name: str, share: float, count: int, record: Record) -> None:
    """Try the mutants that are drawn and not in the record."""
    source, known = source_of(name), record.of(name)
    every = all_places(source)
    drawn = [place for place in every[: round(share * len(every))] if place not in known]
    if not drawn:
        return
    with tempfile.TemporaryDirectory() as temporary:
        check, file = getattr(MODULES[name], ENTRY[name]), str(MODULES[name].__file__)
        trials = [trial(check, path, file) for path in files(Path(temporary), count)]
        inside = {line for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
                  for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)}  # fmt: skip
        for place in drawn:
            changed = mutant(source, place)
            text = source.splitlines()[changed.line - 1].strip() if changed.line else ""
            row = {
                "module": name, "source": digest(name), "node": place[0], "choice": place[1],
                "line": changed.line, "change": changed.change, "text": text,
                "killed": is_killed(changed, name, trials, inside),
            }  # fmt: skip
            record.add(row)
            if not row["killed"]:
                ways = sum(not each.lines.isdisjoint(changed.span) for each in trials)
                told = f"{name} survives {ways} files: line {row['line']}, {row['change']}: {text}"
                print(told, flush=True)


def table(record: Record) -> str:
    """The counts of both checkers, and the survivors with their reasons."""
    rows = [
        "| checker | changes | tried | killed | survivors without a reason |",
        "|---|---|---|---|---|",
    ]
    survivors = ["| checker | change that survives | why |", "|---|---|---|"]
    for name in MODULES:
        found = list(record.of(name).values())
        left = [row for row in found if not row["killed"]]
        told = [(row, reason(name, row["text"], row["change"])) for row in left]
        every, killed = len(all_places(source_of(name))), len(found) - len(left)
        share = f"{killed} ({killed / len(found):.1%})" if found else "0"
        unexplained = sum(why == "open" for _, why in told)
        rows.append(f"| `{name}.py` | {every} | {len(found)} | {share} | {unexplained} |")
        for row, why in sorted(told, key=lambda each: (each[1], each[0]["line"])):
            text = row["text"].replace("|", "\\|")
            survivors.append(f"| `{name}.py` | {row['change']}: `{text}` | {why} |")
    return "\n".join([*rows, "", *survivors])


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--module", choices=sorted(MODULES), nargs="*", default=[])
    options.add_argument("--share", type=float, default=1.0, help="of all mutants, drawn at random")
    options.add_argument("--files", type=int, default=400, help="mutated files per set")
    options.add_argument("--record", type=Path, default=Path("mutants.jsonl"))
    options.add_argument("--write", action="store_true", help="put the table into the page")
    chosen = options.parse_args()
    record = Record(chosen.record)
    for name in chosen.module:
        tried(name, chosen.share, chosen.files, record)
    print(table(record))
    if chosen.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table(record)}\n\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
