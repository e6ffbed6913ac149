"""An oracle for the properties of layers: drawn mixers, decided, and judged on their maps.

    python -m tests.soundness.properties --decided 5000 --seed 0

The mixers have masks, windows, sinks, soft caps, scales, epsilons, dependent keys, and channels as
many as tokens. The truth shares no code with what decides: it is read off the stored map, in exact
fractions, or off the map of a changed mixer. UNKNOWN and NOT APPLICABLE are never false.
"""

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import mpmath
import torch
from torch import Tensor

import dsf
from dsf.inspection.results.layers import InspectedLayer
from dsf.mixers import (
    RWKV4,
    DeltaNet,
    GatedDeltaNet,
    LinearAttention,
    ScalarGatedAttention,
    SoftmaxAttention,
)
from dsf.mixers.ingredients import feature_maps
from dsf.properties.decided import Finding, findings

F64 = torch.float64
NEAR = 1e-9
"""Relative rounding of a map that was computed in float64."""
OFTEN = (SoftmaxAttention, SoftmaxAttention, SoftmaxAttention, LinearAttention, DeltaNet,
         GatedDeltaNet, RWKV4, ScalarGatedAttention)  # fmt: skip


def drawn(rng: random.Random) -> InspectedLayer:
    """A layer with a drawn mixer; half of them of the classes about which most is decided."""
    kind: Any = rng.choice(OFTEN if rng.random() < 0.6 else dsf.mixers.ALL)
    torch_rng = torch.Generator().manual_seed(rng.getrandbits(48))
    sizes = {
        size
        for field in fields(kind)
        for size in getattr(getattr(kind.draw(torch_rng, steps=5), field.name), "shape", ())
    }
    steps = rng.choice([*sorted(size for size in sizes if size > 1), 6, 9, 12])
    mixer = changed(kind.draw(torch_rng, steps=steps), rng)
    batch = mixer.system().batch
    last = "head" if rng.random() < 0.8 else "channel"
    axes = tuple([*("sample", "group", "part")[: len(batch) - 1], last][: len(batch)])
    return InspectedLayer("drawn", kind.__name__, mixer, axes, error=0.0, tolerance=1.0)


def changed(mixer: Any, rng: random.Random) -> Any:
    """The mixer with other options, keys that depend on each other, and other decays."""
    new: dict[str, Any] = {}
    names = {field.name for field in fields(mixer)}
    if "key" in names and rng.random() < 0.3:
        new["key"] = _dependent(mixer.key) if rng.random() < 0.5 else mixer.key.round()
    if getattr(mixer, "initial", None) is not None and rng.random() < 0.3:
        new["initial"] = None
    if "rate" in names and rng.random() < 0.5:
        new["rate"] = mixer.rate * rng.choice([0.0, 0.1, -1.0, 3.0])
    if getattr(mixer, "log_decay", None) is not None and rng.random() < 0.7:
        new["log_decay"] = mixer.log_decay * rng.choice([0.0, 0.01, 0.1, 1.0, 5.0, -0.1])
    if isinstance(mixer, LinearAttention):
        new["epsilon"] = rng.choice([0.0, 0.0, 1e-6, 1.0])
        new["normalised"] = rng.random() < 0.8
        new["causal"] = rng.random() < 0.7
        names_of_maps = ("identity", "relu", "elu_plus_one", "squares")
        new["feature_map"] = getattr(feature_maps, rng.choice(names_of_maps))
    if isinstance(mixer, SoftmaxAttention):
        new |= masked(mixer, rng)
    return replace(mixer, **new)


def _dependent(key: Tensor) -> Tensor:
    """The first half of the keys on one plane, whose last column is made of the first."""
    key, half = key.clone(), key.shape[-2] // 2 + 1
    key[..., :half, -1] = 2 * key[..., :half, 0] - 1
    return key


def masked(mixer: SoftmaxAttention, rng: random.Random) -> dict[str, Any]:
    """Masks, windows, documents, padding; soft caps, sinks and scales of every kind."""
    batch, steps = mixer.query.shape[:-2], mixer.query.shape[-2]
    place = torch.arange(steps)
    apart = place[:, None] - place[None]
    width = rng.randint(1, steps)
    hidden = {
        "nothing": torch.zeros(steps, steps, dtype=torch.bool),
        "a window": apart >= width,
        "documents": (place[:, None] // width) != (place[None] // width),
        "padding": (place < steps - width).expand(steps, steps),
        "random": torch.tensor([[rng.random() < 0.4 for _ in range(steps)] for _ in place]),
        "middle rows": (apart != 0) & (place[:, None] >= width) & (place[:, None] < steps - 1),
        "later tokens": apart < 0,
    }[rng.choice(["nothing", "a window", "documents", "padding", "random", "middle rows",
                  "later tokens"])].clone()  # fmt: skip
    hidden.fill_diagonal_(False)
    low = rng.choice([-math.inf, -math.inf, -1e4, -1e9, torch.finfo(torch.float32).min])
    bias = torch.zeros(steps, steps, dtype=F64).masked_fill(hidden, low)
    if rng.random() < 0.3:
        bias = bias + torch.tensor([[rng.gauss(0, 1) for _ in place] for _ in place], dtype=F64)
    sinks = [0.5, -math.inf, -3.0, math.inf, math.nan]
    key = rng.randint(1, 4)
    return {
        "bias": bias.expand(*batch, steps, steps).clone() if rng.random() < 0.8 else None,
        "causal": rng.random() < 0.6,
        "softcap": 5.0 if rng.random() < 0.1 else None,
        "scale": rng.choice([None, None, 1.0, 0.7, -0.5, 0.0]),
        "sink": torch.full(batch, rng.choice(sinks), dtype=F64) if rng.random() < 0.3 else None,
        "query": mixer.query[..., :key] * rng.choice([1.0, 1.0, 100.0, 1e3]),
        "key": (_dependent if rng.random() < 0.3 else Tensor.clone)(mixer.key[..., :key]),
    }


# --- the truth -------------------------------------------------------------------------------


def fractions(rows: Tensor) -> list[list[Fraction]]:
    return [[Fraction(value) for value in row] for row in rows.tolist()]


def rank(rows: list[list[Fraction]]) -> int:
    work, found = [list(row) for row in rows], 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((k for k in range(found, len(work)) if work[k][column]), None)
        if pivot is None:
            continue
        work[found], work[pivot] = work[pivot], work[found]
        for k in range(found + 1, len(work)):
            factor = work[k][column] / work[found][column]
            work[k] = [a - factor * b for a, b in zip(work[k], work[found], strict=True)]
        found += 1
    return found


def index_of(finding: Finding) -> tuple[int, ...]:
    return tuple(finding.part.values())


def map_of(layer: InspectedLayer, finding: Finding) -> Tensor:
    return dsf.attention_map(layer.mixer.system())[index_of(finding)]


def causal(layer, finding):
    rows = map_of(layer, finding).flatten(0, -3) if not finding.part else [map_of(layer, finding)]
    return all(not any(row[i + 1 :]) for map in rows for i, row in enumerate(map.tolist()))


def nonnegative(layer, finding):
    return min(map_of(layer, finding).flatten().tolist()) >= 0


def sums_to_one(layer, finding):
    rows = map_of(layer, finding).reshape(-1, map_of(layer, finding).shape[-1])
    return all(abs(sum(row) - 1) <= Fraction(1e-6) for row in fractions(rows))


def injective(layer, finding):
    """PROVED: the keys of every row that shows enough have full rank. REFUTED: on the map."""
    mixer, index = layer.mixer, index_of(finding)
    witness = finding.certificate.witness
    if witness is not None:
        return not same_row(mixer, index, witness)
    key = fractions(mixer.key[index])
    sink = mixer.sink is not None and math.isfinite(mixer.sink[index])
    for i, row in enumerate(map_of(layer, finding).tolist()):
        seen = [j for j, weight in enumerate(row) if weight != 0]
        if mixer.bias is None:  # a weight of zero is rounding, and no mask
            seen = list(range(i + 1 if mixer.causal else len(row)))
        columns = [[*key[j], *([] if sink else [Fraction(1)])] for j in seen]
        if len(seen) >= len(key[0]) + (not sink) and rank(columns) < len(columns[0]):
            return False
    return mixer.scale != 0 and mixer.softcap is None


def same_row(mixer: Any, index: tuple[int, ...], witness: Any) -> bool:
    """Whether the two queries of a witness share the row of the map that it names."""
    row = witness["row"]
    width = mixer.query.shape[-1]
    if "null" in witness:
        null = [Fraction(part) for part in witness["null"][:-1]] or None
        if null is None:  # fewer keys than unknowns: counted
            sink = mixer.sink is not None and math.isfinite(mixer.sink[index])
            return row + 1 < width + (not sink)
        size = max(map(abs, null))
        one = mixer.query[index][row]
        other = one + torch.tensor([float(part / size) for part in null], dtype=F64)
    else:
        one, other = (torch.tensor([float(part) for part in witness[name]], dtype=F64)
                      for name in ("query", "other"))  # fmt: skip
    if torch.equal(one, other):
        return False
    maps = []
    for query in (one, other):
        queries = mixer.query.clone()
        queries[index][row] = query
        maps.append(dsf.attention_map(replace(mixer, query=queries).system())[index][row])
    return bool(torch.allclose(*maps, rtol=1e-6, atol=1e-9))


def margin(layer, finding):
    """Some row of the map has a weight on every key, and the singular value is exact enough."""
    mixer, index = layer.mixer, index_of(finding)
    key = mixer.key[index]
    map = map_of(layer, finding)
    shown = (map != 0).all(dim=-1).any()
    if mixer.bias is not None and not bool(shown):
        return False
    with mpmath.workdps(60):
        matrix = mpmath.matrix([[*row, 1.0] for row in key.tolist()])
        least = min(mpmath.eigsy(matrix.T * matrix, eigvals_only=True))
        return mpmath.sqrt(max(least, 0)) >= finding.certificate.bound * (1 - mpmath.mpf(1e-30))


def nonexpansive(layer, finding):
    """Singular values of the system's own transitions; None where rounding would decide."""
    A = layer.mixer.system().A.dense()
    each = torch.linalg.matrix_norm(A, 2)[index_of(finding)]
    largest = float(each.max())
    return None if abs(largest - 1) < NEAR else largest < 1


def forgets(layer, finding):
    """The product along the axis that is time, which is found by changing one entry at a time."""
    mixer, index = layer.mixer, index_of(finding)
    logs = mixer.log_decay
    before = dsf.attention_map(mixer.system())
    for k in range(1, logs.shape[-1]):
        bent = logs.clone()
        bent[..., k] -= 1.0
        after = dsf.attention_map(replace(mixer, log_decay=bent).system())
        rows = after.shape[-2] // logs.shape[-1]
        fits = logs.shape[-1] * rows == after.shape[-2]
        if not fits or not torch.equal(before[..., : k * rows, :], after[..., : k * rows, :]):
            return "no axis of time"
    kept = logs[index].reshape(-1, logs.shape[-1])
    sums = [sum(map(Fraction, row), Fraction(0)) for row in kept.tolist()]
    with mpmath.workdps(60):
        largest = max(mpmath.exp(mpmath.mpf(s.numerator) / s.denominator) for s in sums)
        return bool(largest <= 0.5)


TRUTH = {each.__name__: each for each in (
    causal, nonnegative, sums_to_one, injective, margin, nonexpansive, forgets
)}  # fmt: skip


def false_verdicts(layer: InspectedLayer) -> Iterator[tuple[str, str, str]]:
    """Property, verdict and fault ("" where it is right) of every finding that was decided."""
    for finding in findings(layer):
        verdict = finding.certificate.verdict.value
        if verdict in ("UNKNOWN", "NOT APPLICABLE"):
            continue
        true = TRUTH[finding.property](layer, finding)
        wrong = true is not None and true is not (verdict == "PROVED")
        yield finding.property, verdict, (
            f"{verdict} {finding.property} of {layer.mixer}, {finding.part}: {true}, "
            f"{finding.certificate}" if wrong else ""
        )  # fmt: skip


def run(decided: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Draw layers until so many properties are decided; the counts, and what is false."""
    rng, counts, wrong = random.Random(seed), Counter(), []
    while sum(counts.values()) < decided:
        for name, verdict, fault in false_verdicts(drawn(rng)):
            counts[name, verdict] += 1
            wrong += [fault] if fault else []
    return counts, wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--decided", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts, wrong = run(asked.decided, asked.seed)
    for (name, verdict), count in sorted(counts.items()):
        print(f"{count:6} {verdict:8} {name}")
    print(f"{sum(counts.values())} decided, {len(wrong)} false")
    print(*wrong[:20], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
