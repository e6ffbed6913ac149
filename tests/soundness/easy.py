"""Claims whose verdict is plain to see: none of them should end UNKNOWN, and none take long.

    python -m tests.soundness.easy --rounds 5

Prints how many of each kind were decided, decided wrongly or left open, and the slowest. Every file
that is written is decided by both checkers.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch

from dsf import certify
from dsf.certificates import Certificate, Level
from tests.soundness import second_checker

F64 = torch.float64
Issue = Callable[[Path], Certificate]
Draw = Callable[..., torch.Tensor]


class Easy(NamedTuple):
    """A claim with the verdict that it must get."""

    kind: str
    verdict: str
    issue: Issue


def easy(seed: int) -> Iterator[Easy]:
    """One claim of every kind on random numbers."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=rng, dtype=F64)

    def whole(low: int, high: int, *size: int) -> torch.Tensor:
        return torch.randint(low, high, size, generator=rng).double()

    yield from _decays(normal, whole)
    yield from _keys(normal, whole)
    yield from _steps(normal, whole)
    yield from _boxes(normal, whole)
    yield from _maps(normal)


def _decays(
    normal: Callable[..., torch.Tensor], whole: Callable[..., torch.Tensor]
) -> Iterator[Easy]:
    width = int(whole(1, 5))
    logs = -normal(2, 12).abs()
    zero = logs.clone()
    zero[0, 3] = zero[1, ::2] = -math.inf
    none = torch.zeros(12, dtype=F64)
    huge = -(10.0 ** whole(4, 300, 12))
    big = 10.0 ** float(whole(10, 17))
    three = torch.tensor([big, float(whole(1, 9)), -big], dtype=F64)
    bound = Fraction(math.exp(float(logs.unfold(-1, width, 1).sum(-1).max())))
    rate = torch.ones((), dtype=F64)
    box = (-torch.ones(3, dtype=F64), torch.ones(3, dtype=F64))
    weight = normal(3)

    def decay(part: torch.Tensor, most: float, steps: int = width) -> Issue:
        return lambda folder: certify.decay(part, width=steps, most=most, folder=folder)

    def in_box(most: float, factor: torch.Tensor) -> Issue:
        return lambda folder: certify.decay_box(
            weight, rate, factor, box, width=2, most=most, folder=folder
        )

    yield Easy("decay of zero", "PROVED", decay(zero, 1.0))
    yield Easy("no decay at all", "PROVED", decay(none, 1.0))
    yield Easy("no decay at all", "REFUTED", decay(none, math.nextafter(1.0, 0.0)))
    yield Easy("huge logarithms", "PROVED", decay(huge, 0.5))
    yield Easy("huge logarithms", "REFUTED", decay(-huge, 0.5))
    yield Easy("cancelling logarithms", "REFUTED", decay(three, 1.5, 3))
    yield Easy("cancelling logarithms", "PROVED", decay(-three, 0.9, 3))
    yield Easy("above a tie", "PROVED", decay(logs, float(bound) * (1 + 1e-12)))
    yield Easy("below a tie", "REFUTED", decay(logs, float(bound) * (1 - 1e-12)))
    yield Easy("corner of a box", "REFUTED", in_box(1e-9, rate))
    yield Easy("corner of a box", "PROVED", in_box(1.0, rate))
    yield Easy("rate zero", "PROVED", in_box(1.0, 0 * rate))
    yield Easy("rate zero", "REFUTED", in_box(1.0 - 2.0**-53, 0 * rate))


def _keys(
    normal: Callable[..., torch.Tensor], whole: Callable[..., torch.Tensor]
) -> Iterator[Easy]:
    few, wild = normal(4, 9), normal(8, 8) * 2.0 ** whole(-500, 500, 8, 8)
    prime = 2.0 ** torch.tensor([[61.0], [0.0]], dtype=F64)
    doubled = normal(30, 6)
    doubled[:, 4] = 2 * doubled[:, 1]
    wide, single = normal(64, 128), normal(128, 128).float()
    hidden = torch.zeros(1024, 1, dtype=F64)
    chosen = set(torch.linspace(0, 1023, 512).long().tolist())
    others = [k for k in range(1024) if k not in chosen]
    hidden[others] = whole(1, 7, len(others), 1)
    key = normal(40, 5)

    def injective(part: torch.Tensor, **named: object) -> Issue:
        return lambda folder: certify.injective(part, folder=folder, **named)  # type: ignore[arg-type]

    def near(part: torch.Tensor, distance: float) -> Issue:
        last = len(part) - 1
        return injective(part, level=Level.REAL, uncertainty=distance, first_row=last)

    yield Easy("fewer keys than columns", "REFUTED", injective(few))
    yield Easy("wild exponents", "REFUTED", injective(wild))
    yield Easy("determinant divisible by the prime", "PROVED", injective(prime))
    yield Easy("a column twice another", "REFUTED", injective(doubled, first_row=29))
    yield Easy("width 128", "REFUTED", injective(wide))
    yield Easy("width 128", "REFUTED", injective(single))
    yield Easy("real, margin", "PROVED", near(key, 1e-6))
    yield Easy("real, keys nearby", "REFUTED", near(key, 100.0))
    yield Easy("real, dependent", "REFUTED", near(doubled, 0.0))
    yield Easy("real, few keys", "REFUTED", near(few, 0.0))
    yield Easy(
        "margin in other rows", "PROVED", lambda folder: certify.margin(hidden, folder=folder)
    )


def _steps(
    normal: Callable[..., torch.Tensor], whole: Callable[..., torch.Tensor]
) -> Iterator[Easy]:
    key = normal(6, 3)
    one = torch.ones(6, dtype=F64)
    far = 10.0 ** float(whole(155, 300)) * (key.abs() + 1)
    unit = torch.eye(3, dtype=F64).repeat(2, 1)

    def step(part: torch.Tensor, rate: torch.Tensor, *logs: torch.Tensor) -> Issue:
        return lambda folder: certify.nonexpansive(part, rate, *logs, folder=folder)

    yield Easy("overflowing square", "REFUTED", step(far, one))
    yield Easy("overflowing square", "PROVED", step(far, 0 * one))
    yield Easy("rate at its bound", "PROVED", step(unit, 2 * one))
    yield Easy("rate at its bound", "REFUTED", step(unit, (2 + 2.0**-50) * one))
    yield Easy("decay makes up", "PROVED", step(unit, one, -one))
    yield Easy("decay grows", "REFUTED", step(unit, one, one * 1e-12))


def _boxes(
    normal: Callable[..., torch.Tensor], whole: Callable[..., torch.Tensor]
) -> Iterator[Easy]:
    shift = float(whole(1, 4)) / 4
    valley = torch.tensor([[2.0], [-2.0], [0.0], [0.0]], dtype=F64) * (1 + shift)
    sides = (torch.tensor([-1.0 - shift], dtype=F64), torch.tensor([3.0], dtype=F64))
    alike, point = torch.zeros(2, 1, dtype=F64), (torch.ones(1, dtype=F64),) * 2
    far = torch.tensor([[0.0], [1000.0 + shift]], dtype=F64)
    key = normal(6, 2)
    small = (-0.01 * torch.ones(2, dtype=F64), 0.01 * torch.ones(2, dtype=F64))

    def local(
        part: torch.Tensor, box: tuple[torch.Tensor, ...], share: float, stop: int = 1
    ) -> Issue:
        return lambda folder: certify.locality(
            part, (box[0], box[1]), window=(0, stop), share=share, scale=1.0, folder=folder
        )

    yield Easy("inner minimum", "REFUTED", local(valley, sides, 0.55, 2))
    yield Easy("inner minimum", "PROVED", local(valley, sides, 0.45, 2))
    yield Easy("tie of shares", "PROVED", local(alike, point, 0.5))
    yield Easy("tie of shares", "REFUTED", local(alike, point, 0.5 + 2.0**-53))
    yield Easy("odds beyond a float", "REFUTED", local(far, point, 0.5))
    yield Easy("odds beyond a float", "PROVED", local(-far, point, 0.5))
    yield Easy("small box", "PROVED", local(key, small, 0.1))


def _maps(normal: Draw) -> Iterator[Easy]:
    map = normal(5, 5)
    tiny = torch.ones(4, 4, dtype=F64).tril() * 1e-200
    empty = torch.zeros(3, 3, dtype=F64)
    yield Easy(
        "sums beyond a float",
        "REFUTED",
        lambda folder: certify.row_sums(map.sigmoid() * 1.7e308, folder=folder),
    )
    yield Easy(
        "rows of zeros",
        "PROVED",
        lambda folder: certify.window_mass(empty, width=1, share=0.5, folder=folder),
    )
    for scale in (1.0, 1e200):
        yield Easy(
            "reduction of a scaled map",
            "PROVED",
            lambda folder, scale=scale: certify.reduction_error(
                tiny * scale, order=1, folder=folder
            ),
        )


class Count(NamedTuple):
    """What became of the claims of one kind."""

    cases: int = 0
    open: int = 0
    wrong: int = 0
    slowest: float = 0.0


def counted(rounds: int, first: int = 0) -> dict[str, Count]:
    """Decides ``rounds`` claims of every kind, by processor time."""
    found: dict[str, Count] = {}
    for seed in range(first, first + rounds):
        for case in easy(seed):
            with tempfile.TemporaryDirectory() as place:
                start = time.process_time()
                certificate = case.issue(Path(place))
                seconds = time.process_time() - start
                files = list(Path(place).glob("certificates/*.json"))
                second = {second_checker.verdict(file) for file in files}
            verdict = certificate.verdict.value
            settled = verdict == "UNKNOWN" or second == {verdict}
            old = found.get(case.kind, Count())
            found[case.kind] = Count(
                old.cases + 1,
                old.open + (verdict == "UNKNOWN"),
                old.wrong + (verdict not in ("UNKNOWN", case.verdict) or not settled),
                max(old.slowest, seconds),
            )
    return found


def main() -> int:
    """Print the table; exit status 1 if a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    found = counted(parser.parse_args().rounds)
    print(f"{'kind':36}{'cases':>8}{'UNKNOWN':>9}{'wrong':>7}{'slowest':>10}")
    for kind, count in found.items():
        print(f"{kind:36}{count.cases:8}{count.open:9}{count.wrong:7}{count.slowest:9.2f} s")
    cases, left, wrong = (sum(count[k] for count in found.values()) for k in range(3))
    print(f"{'all':36}{cases:8}{left:9}{wrong:7}{max(c.slowest for c in found.values()):9.2f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
