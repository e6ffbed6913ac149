"""Bounds of reductions and enclosed maps against exact maps of 50 digits.

    python -m tests.soundness.rounding --reductions 10000 --enclosures 1000

Reductions are drawn where rounding rules: states in bad bases, modes that cancel, tiny and huge
maps, orders that drop nothing. A bound below the true error is a fault, and so is an entry
outside of its enclosure. Exit status 1 if there is one.
"""

import argparse
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import mpmath
import torch
from torch import Tensor

import dsf
from dsf.systems.transition import Dense, Diagonal
from tests.measures import oracle
from tests.soundness.measures import coefficients_of, drawn, entries_of

F64 = torch.float64
ORDINARY = "ordinary"


@dataclass
class Bounds:
    """How bounds compare with true errors.

    Attributes:
        faults: what was below the true error.
        over: of ordinary reductions that drop something, the bounds over the true errors.
        useless: bounds above the tenfold true error and a millionth of the map.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    over: list[float] = field(default_factory=list)
    useless: list[str] = field(default_factory=list)


def _orthogonal(rng: torch.Generator, *size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(*size, generator=rng, dtype=F64)).Q


def case(seed: int) -> tuple[str, dsf.System, int]:
    """A system, of what kind it is, and the order to which it is reduced."""
    chance, rng = random.Random(seed), torch.Generator().manual_seed(seed)
    steps, states = chance.randint(2, 6), chance.randint(2, 4)
    kind = chance.choice((ORDINARY, "bad basis", "cancelling modes", "tiny", "huge", "float32"))

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=F64)

    if kind == ORDINARY:
        steps, states = chance.randint(6, 9), 4

    A, B = 0.5 * draw(steps, states, states), draw(steps, states, 1)
    C, D = draw(steps, 1, states), draw(steps, 1, 1)
    order = chance.randint(1, 2 if kind == ORDINARY else states)
    if kind == "cancelling modes":
        decay = torch.full((steps, states), 0.9, dtype=F64)
        write, read = torch.ones(states, dtype=F64), torch.ones(states, dtype=F64)
        write[1], write[-1] = -1, 10.0 ** -chance.randint(0, 12)
        read[:2] = 10.0 ** chance.randint(0, 14)
        constant = (write[:, None].expand(steps, -1, 1), read.expand(steps, 1, -1))
        return kind, dsf.System(Diagonal(decay), *constant), order
    if kind == "bad basis":
        worst = chance.randint(1, 9)
        stretch = torch.diag(torch.logspace(0, -worst, states, dtype=F64))
        basis = _orthogonal(rng, steps + 1, states, states) @ stretch
        basis = basis @ _orthogonal(rng, steps + 1, states, states)
        inverse = torch.linalg.inv(basis)
        A, B, C = basis[1:] @ A @ inverse[:-1], basis[1:] @ B, C @ inverse[1:]
    if kind in ("tiny", "huge"):
        scale = 10.0 ** (chance.randint(50, 280) * (1 if kind == "huge" else -1))
        C, D = C * scale, D * scale
    system = dsf.System(Dense(A), B, C, D, reads_before_update=bool(seed % 2))
    if kind == "float32":
        system = dsf.systems.algebra.converted(system, dtype=torch.float32)
    return kind, system, order


def reduced(count: int, first: int = 0) -> Bounds:
    """The bounds of so many reductions."""
    found = Bounds()
    for seed in range(first, first + count):
        kind, system, order = case(seed)
        reduction = dsf.evaluate.reduce(system, order=order)
        maps = [oracle.followed(coefficients_of(each, ())) for each in (system, reduction.system)]
        pairs = zip(oracle.everything(maps[0]), oracle.everything(maps[1]), strict=True)
        true = oracle.length([a - b for a, b in pairs])
        bound = mpmath.mpf(reduction.bound.item())
        found.kinds[kind] += 1
        if not bound >= true:
            shown = f"bound {mpmath.nstr(bound, 8)}, true error {mpmath.nstr(true, 8)}"
            found.faults.append(f"seed {seed}, {kind}: {shown}")
        if bound > max(10 * true, 1e-6 * reduction.size.item()):
            shown = f"bound {mpmath.nstr(bound, 3)}, true error {mpmath.nstr(true, 3)}"
            found.useless.append(f"seed {seed}, {kind}: {shown}")
        if kind == ORDINARY and true > 1e-10 * reduction.size.item():
            found.over.append(float(bound / true))
    return found


@dataclass
class Inside:
    """Enclosures by kind of operator, the widest of them relative to its map, and faults."""

    kinds: Counter[str] = field(default_factory=Counter)
    widest: float = 0.0
    faults: list[str] = field(default_factory=list)


def enclosed(count: int, first: int = 0) -> Inside:
    """Whether the exact maps of so many operators lie inside their enclosures."""
    found, seed = Inside(), first
    while found.kinds.total() < count:
        one = drawn(seed)
        enclosure = dsf.attention_map(one.operator, enclosed=True)
        for index, map in zip(entries_of(one.operator), one.maps, strict=True):
            middle, radius = enclosure.midpoint[index], enclosure.radius[index]
            if not _holds(map.rows, middle, radius):
                found.faults.append(f"seed {seed}, {one.kind}")
            most = float(middle.abs().nan_to_num(0.0).max())
            if most and bool(radius.isfinite().all()):
                found.widest = max(found.widest, float(radius.max()) / most)
        found.kinds[one.kind.split(",")[0]] += 1
        seed += 1
    return found


def _holds(rows: list[list[Any]], middle: Tensor, radius: Tensor) -> bool:
    for row, middles, radii in zip(rows, middle.tolist(), radius.tolist(), strict=True):
        for exact, here, wide in zip(row, middles, radii, strict=True):
            if mpmath.isnan(exact) or wide == torch.inf:
                if wide != torch.inf:
                    return False
            elif abs(exact - mpmath.mpmathify(here)) > wide:
                return False
    return True


def main() -> int:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reductions", type=int, default=10_000)
    parser.add_argument("--enclosures", type=int, default=1_000)
    given = parser.parse_args()
    start = time.process_time()
    bounds = reduced(given.reductions)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(bounds.kinds.items()))
    print(f"{bounds.kinds.total()} reductions ({kinds}): {len(bounds.faults)} bounds too small")
    if bounds.over:
        print(
            f"  of {len(bounds.over)} ordinary ones that drop something the bound is at most "
            f"{max(bounds.over):.3g} times the true error"
        )
    print(f"  {len(bounds.useless)} are above the tenfold true error and a millionth of the map")
    inside = enclosed(given.enclosures)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(inside.kinds.items()))
    print(f"{inside.kinds.total()} enclosures ({kinds}): {len(inside.faults)} maps outside")
    print(f"  widest radius relative to its map {inside.widest:.2g}")
    for line in (bounds.faults + bounds.useless + inside.faults)[:40]:
        print(line)
    print(f"{time.process_time() - start:.0f} s")
    return 1 if bounds.faults or bounds.useless or inside.faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
