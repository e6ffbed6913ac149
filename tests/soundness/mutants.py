"""Mutation testing of both checkers: how many small changes of their source the tests notice.

    python -m tests.soundness.mutants --module checker --share 0.2

Every comparison, operator, constant, condition and ``raise`` of a checker is changed, one at a
time, and the changed checker decides a fixed set of files: honest ones, and mutated ones as the
fuzzer draws them; its exponentials have to enclose at some points. A mutant is killed if one answer
differs, or if it raises or hangs. Survivors are listed with their line.
"""

import argparse
import ast
import random
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import mpmath

from dsf.certificates import checker, second_checker
from tests.soundness.edges import edges
from tests.soundness.files import Bent, honest
from tests.soundness.fuzz import bent_file, nudged, parent, places, reworded

MODULES = {"checker": checker, "second_checker": second_checker}
ENTRY = {"checker": "check", "second_checker": "verdict"}
SECONDS = 60  # of work for one mutant on all files; other programs on the machine do not count

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


def mutants(source: str, chosen: Callable[[], bool]) -> Iterator[Mutant]:
    """All single changes of a source for which ``chosen`` is true."""
    whole = ast.parse(source)
    spans = _spans(whole)
    for number, node in enumerate(ast.walk(whole)):
        for choice in range(len(changes(node))):
            if chosen():
                tree = ast.parse(source)
                same = next(islice(ast.walk(tree), number, None))
                words, apply = changes(same)[choice]
                apply()
                line = getattr(node, "lineno", 0)
                span = spans.get(line, range(line, line + 1))
                yield Mutant(line, words, ast.fix_missing_locations(tree), span)


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
    """A file, what the checker says of it, and which of its lines say so."""

    path: Path
    wanted: str
    lines: frozenset[int]


def trial(check: Callable[[Path], str], path: Path, source: str) -> Trial:
    """Decide a file and remember every line of the checker that took part."""
    seen: set[int] = set()

    def lines(frame: types.FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            seen.add(frame.f_lineno)
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
    return Trial(path, said, frozenset(seen))


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
        "LARGEST_CERTIFICATE": 16 << 20, "LARGEST_TENSORS": 256 << 20, "LARGEST_HEADER": 64 << 10,
        "LONGEST_INTEGER": 4000, "DEEPEST": 200, "WIDEST": 1024, "MOST_PRODUCTS": 1 << 20,
        "FAR": 1 << 14,
    },
    "second_checker": {"MIB": 1 << 20, "DIGITS": 4000, "DEPTH": 200, "REACH": 1 << 14},
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
    """
    reached = [each for each in trials if not each.lines.isdisjoint(mutant.span)]
    cases = trials if everywhere.isdisjoint(mutant.span) else reached

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
    except Exception:
        return True
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--module", choices=sorted(MODULES), default="checker")
    options.add_argument("--share", type=float, default=1.0, help="of all mutants, drawn at random")
    options.add_argument("--files", type=int, default=400, help="mutated files per set")
    chosen = options.parse_args()
    name, chance = chosen.module, random.Random(1)
    source = Path(str(MODULES[name].__file__)).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        check = getattr(MODULES[name], ENTRY[name])
        place = str(MODULES[name].__file__)
        trials = [trial(check, path, place) for path in files(Path(temporary), chosen.files)]
        trials.sort(key=lambda each: each.wanted == "rejected")
        inside = {line for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
                  for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)}  # fmt: skip
        killed, survivors = 0, []
        for mutant in mutants(source, lambda: chance.random() < chosen.share):
            if is_killed(mutant, name, trials, inside):
                killed += 1
            else:
                survivors.append(mutant)
                text = source.splitlines()[mutant.line - 1].strip() if mutant.line else ""
                ways = sum(not each.lines.isdisjoint(mutant.span) for each in trials)
                told = f"survives {ways} files: line {mutant.line}, {mutant.change}: {text}"
                print(told, flush=True)
    total = killed + len(survivors)
    print(f"{name}: {killed} of {total} mutants killed ({killed / max(total, 1):.1%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
