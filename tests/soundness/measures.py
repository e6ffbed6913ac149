"""Every measure against the oracle, on operators of every kind: 50,000 comparisons.

    python -m tests.soundness.measures --comparisons 50000 --write

``--write`` puts the table into ``docs/measures_oracle.md``. Exit status 1 if a difference has no
explanation.
"""

import argparse
import cmath
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mpmath
import torch
from torch import Tensor

import dsf
from dsf import measures
from dsf.systems.composite import ExplicitMap, Operator, StoredRows, SystemSum
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    ScaledIdentity,
    Shift,
    Transition,
)
from tests.measures import oracle

PAGE = Path(__file__).parents[2] / "docs" / "measures_oracle.md"
SCALES = (1.0, 1.0, 1.0, 1.0, 1e200, 1e-200, 1e100, 1e-100)
SINGLE_SCALES = (1.0, 1.0, 1e30, 1e-30)
TRANSITIONS = ("diagonal", "scaled identity", "dense", "low rank", "shift")
SLACK = 2e5  # roundings that a measure of so small a map may add up


@dataclass(frozen=True)
class Drawn:
    """An operator, what kind it is, and for every entry of its batch the exact map."""

    kind: str
    operator: Operator
    maps: list[oracle.Map]
    coefficients: list[dict[str, Any]] | None


def _transition(
    name: str, batch: tuple[int, ...], steps: int, states: int, draw: Callable[..., Tensor]
) -> Transition:
    if name == "diagonal":
        return Diagonal(draw(*batch, steps, states))
    if name == "scaled identity":
        return ScaledIdentity(draw(*batch, steps), states)
    if name == "dense":
        return Dense(draw(*batch, steps, states, states))
    if name == "low rank":
        left, right = (draw(*batch, steps, states, 1) for _ in range(2))
        return DiagonalPlusLowRank(draw(*batch, steps, states), left, right)
    like = draw(1)[0].real
    return Shift.register(like, batch=torch.Size(batch), steps=steps, size=states)


def _system(chance: random.Random, rng: torch.Generator) -> tuple[str, dsf.System]:
    name, backward = chance.choice(TRANSITIONS), chance.random() < 0.3
    batch = chance.choice(((), (), (2,)))
    steps, states = chance.randint(1, 5), chance.randint(1, 3)
    inputs, outputs = chance.choice(((1, 1), (1, 1), (2, 1), (1, 2), (2, 2)))
    single = chance.random() < 0.25
    rotates = chance.random() < 0.25
    dtype = torch.complex128 if rotates else torch.float64

    def draw(*size: int) -> Tensor:
        part = torch.randn(size, generator=rng, dtype=dtype)
        return part.to(torch.complex64 if rotates else torch.float32) if single else part

    scale = chance.choice(SINGLE_SCALES if single else SCALES)
    system = dsf.System(
        _transition(name, batch, steps, states, draw),
        draw(*batch, steps, states, inputs),
        draw(*batch, steps, outputs, states) * scale,
        draw(*batch, steps, outputs, inputs) * scale if chance.random() < 0.7 else None,
        initial=draw(*batch, states, 1) if chance.random() < 0.3 else None,
        reads_before_update=chance.random() < 0.4,
        takes_real_part=rotates and chance.random() < 0.5,
        runs_backward=backward,
    )
    words = [name, "backward" if backward else "forward"]
    words += ["complex"] * rotates + ["float32"] * single
    words += [f"{inputs} in, {outputs} out"] * ((inputs, outputs) != (1, 1))
    words += ["initial state"] * (system.initial is not None) + [f"scale {scale:g}"] * (scale != 1)
    return ", ".join(words), system


def coefficients_of(system: dsf.System, index: tuple[int, ...]) -> dict[str, Any]:
    """The numbers of one entry of the batch as plain lists, exactly."""
    system = dsf.systems.algebra.converted(system, dtype=torch.float64)
    parts = {"A": system.A.dense(), "B": system.B, "C": system.C, "D": system.feedthrough}
    found = {
        name: torch.as_tensor(part).expand(*system.batch, system.steps, -1, -1)[index]
        for name, part in parts.items()
    }
    plain: dict[str, Any] = {name: part.resolve_conj().tolist() for name, part in found.items()}
    if isinstance(system.A, DiagonalPlusLowRank):
        update = (system.A.decay[index], system.A.left[index], system.A.right[index])
        tokens = zip(*(part.resolve_conj().tolist() for part in update), strict=True)
        plain["A"] = [oracle.diagonal_plus_low_rank(*token) for token in tokens]
    return plain | {
        "before": system.reads_before_update,
        "real": system.takes_real_part,
        "backward": system.runs_backward,
    }


def entries_of(operator: Operator) -> list[tuple[int, ...]]:
    return [tuple(each) for each in torch.ones(operator.batch).nonzero().tolist()] or [()]


def drawn(seed: int) -> Drawn:
    """One operator of a random kind."""
    chance, rng = random.Random(seed), torch.Generator().manual_seed(seed)
    kind = chance.random()
    if kind < 0.6:
        name, system = _system(chance, rng)
        plain = [coefficients_of(system, index) for index in entries_of(system)]
        return Drawn(name, system, [oracle.followed(each) for each in plain], plain)
    if kind < 0.72:
        name, first = _system(chance, rng)
        second = dsf.systems.algebra.reverse(first)
        both = SystemSum((first, second))
        maps = [
            oracle.added(*(oracle.followed(coefficients_of(part, index)) for part in both.parts))
            for index in entries_of(both)
        ]
        return Drawn(f"sum of both directions, {name}", both, maps, None)
    if kind < 0.82:
        query, key = (torch.randn(5, 2, generator=rng, dtype=torch.float64) for _ in range(2))
        causal = chance.random() < 0.5
        mixer = dsf.mixers.SoftmaxAttention(query=3 * query, key=key, value=key, causal=causal)
        exact = oracle.softmax((3 * query).tolist(), key.tolist(), 2**-0.5, causal=causal)
        return Drawn("softmax" + ", causal" * causal, mixer.system(), [exact], None)
    read, written = chance.choice(((4, 4), (5, 5), (1, 1), (6, 3), (3, 6)))
    rows = torch.randn(written, read, generator=rng, dtype=torch.float64)
    rows = rows.abs() if chance.random() < 0.3 else rows
    words = "stored map"
    if written == read and chance.random() < 0.5:
        rows, words = rows.tril(), "stored causal map"
    if chance.random() < 0.3:
        rows[chance.randrange(written), 0] = math.nan
        words += " with NaN"
    if chance.random() < 0.3:
        rows[chance.randrange(written)] = 0.0
        words += " with an empty row"
    scale = chance.choice(SCALES)
    rows, words = rows * scale, words + f", scale {scale:g}" * (scale != 1)
    return Drawn(words, ExplicitMap(StoredRows(rows)), [oracle.stored(rows.tolist())], None)


@dataclass
class Tally:
    """What became of the comparisons."""

    agreed: Counter[str] = field(default_factory=Counter)
    explained: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def comparisons(self) -> int:
        return self.agreed.total() + self.explained.total() + len(self.unexplained)


OUTSIDE = "the exact number is outside the range of the number type"
TIE = "a count at a tie that rounding decides"
REFUSED = "raises an error: the measure is not defined here"


def _sources(case: Drawn) -> Iterator[tuple[str, Any]]:
    """The operator itself and, where it fits a matrix with ports, its map."""
    yield "operator", case.operator
    if getattr(case.operator, "read_steps", case.operator.steps) == case.operator.steps:
        map = dsf.attention_map(case.operator)
        ports = {"outputs": case.operator.output_size, "inputs": case.operator.input_size}
        yield "map", list(dsf.evaluate.row_blocks(map, **ports))


def compare(case: Drawn, tally: Tally) -> None:
    """All measures of one operator."""
    exact = case.maps
    tokens = [7, 8, 7, 8, 9, 7][: max(exact[0].tokens, max(exact[0].read) + 1)]
    effects = [1.5, -0.5, 2.0, 0.25, -1.0, 0.75][: max(exact[0].read) + 1]
    scores = oracle.token_scores(tokens)
    numbers = {name: partial(getattr(measures, name)) for name in oracle.ANY}
    numbers["window_mass"] = partial(measures.window_mass, width=oracle.WIDTH)
    wanted: dict[str, Callable[[oracle.Map], Any]] = dict(oracle.ANY)
    if not any(isinstance(v, mpmath.mpc) for map in exact for v in oracle.everything(map)):
        wanted |= oracle.REAL
        numbers |= {name: partial(getattr(measures, name)) for name in oracle.REAL}
        numbers["self_token"] = partial(measures.self_token, net=True)
        wanted |= {**scores, "copying": oracle.copying(effects)}
        given = torch.tensor(tokens)
        numbers |= {name: partial(getattr(measures, name), tokens=given) for name in scores}
        numbers["copying"] = partial(
            measures.copying, effects=torch.tensor(effects, dtype=torch.float64)
        )
    for form, source in _sources(case):
        for name, measure in numbers.items():
            truth = [wanted[name](map) for map in exact]
            _judged(case, form, name, lambda m=measure, s=source: m(s), truth, tally)
    _of_operators(case, tally)
    tally.kinds[case.kind.split(",")[0]] += 1


def _of_operators(case: Drawn, tally: Tally) -> None:
    """Measures of two maps, of Hankel blocks and of states."""
    operator, exact = case.operator, case.maps
    truth = [oracle.distance(map, map) for map in exact]
    same = partial(measures.map_distance, operator, operator)
    _judged(case, "operator", "map_distance", same, truth, tally)
    if getattr(operator, "read_steps", operator.steps) == operator.steps:
        ports = {"outputs": operator.output_size, "inputs": operator.input_size}
        twice = list(dsf.evaluate.row_blocks(2 * dsf.attention_map(operator), **ports))
        doubled = [
            oracle.Map([[2 * v for v in row] for row in map.rows], map.written, map.read)
            for map in exact
        ]
        truth = [oracle.largest_difference(a, b) for a, b in zip(exact, doubled, strict=True)]
        apart = partial(measures.largest_difference, operator, twice)
        _judged(case, "operator", "largest_difference", apart, truth, tally)
    tokens = max(exact[0].tokens, max(exact[0].read) + 1)
    near = partial(measures.neighbourhood_mass, operator, grid=(1, tokens))
    if max(exact[0].read) + 1 == tokens:
        truth = [oracle.per_row(oracle.neighbourhood_mass)(map) for map in exact]
        _judged(case, "operator", "neighbourhood_mass", near, truth, tally)
    if exact[0].tokens > 1:
        for name, limit in (("hankel_ranks", "tolerance"), ("states_needed", "error")):
            truth = [getattr(oracle, name)(map, LIMITS[name]) for map in exact]
            count = partial(getattr(measures, name), operator, **{limit: LIMITS[name]})
            _judged(case, "operator", name, count, truth, tally)
        values = measures.hankel_singular_values
        truth = [oracle.hankel(map) for map in exact]
        _judged(case, "operator", "hankel_singular_values", lambda: values(operator), truth, tally)
    if case.coefficients is None or not isinstance(operator, dsf.System):
        return
    plain = case.coefficients
    if not operator.runs_backward:
        truth = [oracle.window_sums(map) for map in exact]
        sums = partial(measures.window_sums, operator, width=oracle.WIDTH)
        _judged(case, "operator", "window_sums", sums, truth, tally)
    for name in ("product_norms", "memory_horizon"):
        truth = [getattr(oracle, name)(each) for each in plain]
        measure = getattr(measures, name)
        _judged(case, "operator", name, lambda m=measure: m(operator), truth, tally)
    for k, name in enumerate(("controllability_gramians", "observability_gramians")):
        truth = [oracle.gramians(each)[k] for each in plain]
        measure = getattr(measures, name)
        _judged(case, "operator", name, lambda m=measure: m(operator), truth, tally)


def _judged(
    case: Drawn, form: str, name: str, measure: Callable[[], Tensor], truth: list[Any], tally: Tally
) -> None:
    """Whether the numbers agree, and if not, why."""
    try:
        found = measure()
    except (ValueError, TypeError, IndexError) as error:
        if _may_refuse(case, name, str(error)):
            tally.explained[name, REFUSED] += 1
        else:
            tally.unexplained.append(f"{case.kind} ({form}): {name} refused: {error}")
        return
    if name == "sink_rate":
        truth = [oracle.total(truth) / len(truth)]
    if name == "hankel_singular_values" and isinstance(found, Tensor):
        # lists of values end with as many zeros as a system has states beyond the block
        wide = max(found.shape[-1], *(len(row) for entry in truth for row in entry))
        found = torch.nn.functional.pad(found, (0, wide - found.shape[-1]))
        zeros = [mpmath.mpf(0)] * wide
        truth = [[(row + zeros)[:wide] for row in entry] for entry in truth]
    wanted = _flat(truth)
    ours = found.flatten().tolist() if isinstance(found, Tensor) else [found]
    if len(wanted) != len(ours):
        sizes = f"{len(ours)} numbers, not {len(wanted)}"
        tally.unexplained.append(f"{case.kind} ({form}): {name} has {sizes}")
        return
    reasons = {_reason(case, name, a, b) for a, b in zip(ours, wanted, strict=True)}
    if reasons == {""}:
        tally.agreed[name] += 1
    elif None in reasons:
        pairs = [(a, mpmath.nstr(b, 8)) for a, b in zip(ours, wanted, strict=True)]
        tally.unexplained.append(f"{case.kind} ({form}): {name} found, exact {pairs}")
    else:
        tally.explained[name, max(reason for reason in reasons if reason)] += 1


def _flat(values: Any) -> list[Any]:
    if isinstance(values, list):
        return [each for part in values for each in _flat(part)]
    return [values]


def _may_refuse(case: Drawn, name: str, words: str) -> bool:
    if "NaN or infinite" in words:
        return "NaN" in case.kind
    if name in ("hankel_singular_values", *LIMITS):
        return "backward" in words or "square" in words
    return "takes the real part" in words


LIMITS = {"hankel_ranks": 1e-3, "states_needed": 0.125}
"""Thresholds of counts of singular values, far above rounding."""
COUNTS = {"half_life", "memory_horizon", "sink_rate", *LIMITS}
SHARES = {
    "window_mass", "uniform_share", "sink_mass", "negative_share", "previous_token", "first_token",
    "self_token", "duplicate_token", "induction", "copying", "row_entropy", "effective_tokens",
    "effective_rank", "mean_distance", "map_distance", "negative_entries", "neighbourhood_mass",
}  # fmt: skip
SQUARES = {"off_diagonal_energy", "controllability_gramians", "observability_gramians"}
STATES = {"product_norms", "controllability_gramians"}


def _reason(case: Drawn, name: str, ours: complex, exact: Any) -> str | None:
    """Empty where the numbers agree, an explanation, or None."""
    limits = torch.finfo(case.operator.dtype)
    if mpmath.isnan(exact):
        return "" if cmath.isnan(ours) else None
    if abs(exact) > limits.max or 0 < abs(exact) < limits.tiny:
        return OUTSIDE
    terms = _terms(case, name)
    if not cmath.isfinite(ours):
        return OUTSIDE if name in SQUARES and terms > limits.max else None
    apart = abs(mpmath.mpmathify(ours) - exact)
    if apart <= limits.eps * SLACK * (1 if name in SHARES else terms):
        return ""
    is_tie = name in COUNTS and apart <= 1 and _near_a_tie(case, name)
    return TIE if is_tie else None


def _terms(case: Drawn, name: str) -> Any:
    """The size of the numbers that are added up."""
    if name in STATES and case.coefficients is not None:
        parts = [oracle.gramians(each)[0] for each in case.coefficients]
        norms = [oracle.product_norms(each) for each in case.coefficients]
        chosen = parts if name == "controllability_gramians" else norms
        return max([mpmath.mpf(1), *(abs(v) for v in _flat(chosen))])
    if name == "observability_gramians" and case.coefficients is not None:
        return max(abs(v) for each in case.coefficients for v in _flat(oracle.gramians(each)[1]))
    entries = [abs(v) for map in case.maps for v in oracle.everything(map) if not mpmath.isnan(v)]
    most = max(entries, default=mpmath.mpf(0))
    if name in ("uniformity_gap", "convexity_defect"):
        return most + 1
    return most**2 if name in SQUARES else most


def _near_a_tie(case: Drawn, name: str) -> bool:
    """Whether the count changes when its threshold moves by little."""
    below, above = (oracle.HALF * (1 + sign * mpmath.mpf("1e-5")) for sign in (-1, 1))
    if name in LIMITS:
        measure = getattr(oracle, name)
        limits = [LIMITS[name] * (1 + sign * 1e-5) for sign in (-1, 1)]
        return any(measure(m, limits[0]) != measure(m, limits[1]) for m in case.maps)
    if name == "half_life":
        return any(oracle.half_life(m, below) != oracle.half_life(m, above) for m in case.maps)
    horizon = oracle.memory_horizon
    return any(horizon(each, below) != horizon(each, above) for each in case.coefficients or [])


def tallied(comparisons: int, first: int = 0) -> Tally:
    """At least so many comparisons, from the operators of seeds from ``first`` on."""
    tally, seed = Tally(), first
    while tally.comparisons < comparisons:
        compare(drawn(seed), tally)
        seed += 1
    return tally


TEXT = """# Measures against an oracle

Every measure of a map or a system has a second definition in `tests/measures/oracle.py`: plain
loops over numbers of 50 digits, with no code of the library. The command

```sh
python -m tests.soundness.measures --comparisons 50000 --write
```

drew {operators:,} operators, compared, and wrote this page. Each operator is measured as itself
and, where it has as many queries as keys, by the blocks of its map. Drawn were forward and
backward systems with every structure of transitions, initial states, several ports, batch axes,
complex numbers and real parts, reads before the update, float64 and float32, scales up to
1e±200, maps with NaN and with empty rows: {kinds}.

{agreed:,} comparisons agree, {explained:,} differ with an explanation, {unexplained:,} without
one. Two numbers agree if they differ by at most {slack:,.0f} machine epsilons of the terms that
are added up.

| measure | agree | differ, and why |
|---|---|---|
"""


def _page(tally: Tally) -> str:
    lines = []
    for name in sorted({*tally.agreed, *(name for name, _ in tally.explained)}):
        found = sorted(tally.explained.items())
        reasons = "; ".join(f"{count}: {why}" for (each, why), count in found if each == name)
        lines.append(f"| `{name}` | {tally.agreed[name]:,} | {reasons} |")
    head = TEXT.format(
        operators=tally.kinds.total(),
        kinds=", ".join(f"{kind} ({count})" for kind, count in sorted(tally.kinds.items())),
        agreed=tally.agreed.total(),
        explained=tally.explained.total(),
        unexplained=len(tally.unexplained),
        slack=SLACK,
    )
    return head + "\n".join(lines) + "\n"


def main() -> int:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=50_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    start = time.process_time()
    tally = tallied(given.comparisons, given.first)
    for line in tally.unexplained[:40]:
        print(line)
    print(
        f"{tally.comparisons} comparisons: {tally.agreed.total()} agree, {tally.explained.total()} "
        f"explained, {len(tally.unexplained)} unexplained; {time.process_time() - start:.0f} s"
    )
    if given.write:
        PAGE.write_text(_page(tally), encoding="utf-8")
    return 1 if tally.unexplained else 0


if __name__ == "__main__":
    raise SystemExit(main())
