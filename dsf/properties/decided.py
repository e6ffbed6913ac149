"""Decides the properties of inspected layers, as ``dsf check`` prints them.

``PROPERTIES`` says of each property how it is decided, and which claims a certificate of it may
make; ``dsf.properties.names`` says what a refutation means. ``findings`` decides them for every
head; ``verdicts`` lists the findings as a table, and ``verdict_counts`` counts them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsf import certificates as certify
from dsf.certificates import Certificate, Level, Verdict
from dsf.certificates.certificate import INPUT, Destination, Where
from dsf.certificates.checker import Accepted
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.results.table import Table
from dsf.mixers import DeltaNet, GatedDeltaNet, LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients import feature_maps
from dsf.systems.coefficient import axes_of

SUM_TOLERANCE = 1e-6
MAX_LEFT = 0.5


@dataclass(frozen=True)
class Finding:
    """One property of one part of a layer.

    Attributes:
        layer, family: those of the inspected layer.
        part: the batch indices of the head, by name of the axis; empty for a whole layer.
        property: its name, such as ``nonnegative``.
        certificate: the verdict and its evidence.
    """

    layer: str
    family: str
    part: dict[str, int]
    property: str
    certificate: Certificate


@dataclass(frozen=True)
class Part:
    """A head, or a whole layer, about which properties are decided.

    Attributes:
        layer: the layer, with the coefficients.
        index: the place of the head on the batch axes of its mixer, which holds all heads even
            where some were chosen; empty for a whole layer.
        weights: the map of this part.
    """

    layer: InspectedLayer
    index: tuple[int, ...]
    weights: Tensor


Decide = Callable[[Part, Where], Certificate]
Parameters = Callable[[Accepted], Mapping[str, Any]]


@dataclass(frozen=True)
class Property:
    """A property of a head, or of a layer.

    Attributes:
        decide: issues a certificate about a part.
        claims: the claims that a certificate of this property may make, each with the parameters
            that it must name, as a function of what the checker accepted.
    """

    decide: Decide
    claims: Mapping[str, Parameters]

    def is_claimed_by(self, found: Accepted) -> bool:
        """Whether a certificate that the checker accepted is about this property."""
        wanted = self.claims.get(found.claim)
        return wanted is not None and wanted(found).items() <= found.parameters.items()


def findings(
    layer: InspectedLayer,
    *,
    folder: Path | None = None,
    weights: Tensor | None = None,
    source: Mapping[str, str] | None = None,
) -> Iterator[Finding]:
    """Decide every property for every head of ``layer``.

    Layers with a head axis are decided head by head, layers whose channels are separate systems as
    a whole. A property that is not defined for the mixer, or not for so few tokens, is
    NOT_APPLICABLE. Certificates are written to ``folder`` if one is given.

    Args:
        weights: the map of the layer, where it was computed before.
        source: where the numbers come from, such as the model and the hash of its weights; written
            into every certificate, together with the layer, the head and the property.
    """
    weights = layer.map() if weights is None else weights
    for index in _indices(layer):
        head = layer.place(index)
        place = dict(zip(layer.axes, head, strict=False))
        part = Part(layer, head, weights[index])
        for name, one in PROPERTIES.items():
            provenance = {"input": "the input of this run", **(source or {}), "layer": layer.name}
            provenance |= {"family": layer.family, "part": in_words(place), "property": name}
            certificate = one.decide(part, Destination(folder, provenance))
            yield Finding(layer.name, layer.family, place, name, certificate)


def in_words(part: Mapping[str, int]) -> str:
    """A head as provenance names it: ``sample 0, head 1``, or the whole layer."""
    return ", ".join(f"{axis} {index}" for axis, index in part.items()) or "the whole layer"


def verdicts(found: list[Finding]) -> Table:
    """One record for every finding."""
    return Table(
        tuple(
            {
                "layer": finding.layer,
                "family": finding.family,
                **finding.part,
                "property": finding.property,
                "verdict": certificate.verdict.value,
                "level": certificate.level.value,
                "scope": certificate.scope,
                "bound": certificate.bound,
                "observed": certificate.observed,
                "claim": certificate.claim,
                "limits": "; ".join(f"{k}: {v}" for k, v in certificate.limits.items()),
                "certificate": certificate.file,
                "identity": certificate.identity,
            }
            for finding in found
            for certificate in (finding.certificate,)
        )
    )


def parts_of(layer: InspectedLayer) -> list[str]:
    """The heads that are decided one by one, or the whole layer, in words."""
    places = (layer.place(index) for index in _indices(layer))
    return [in_words(dict(zip(layer.axes, place, strict=False))) for place in places]


def _indices(layer: InspectedLayer) -> list[tuple[int, ...]]:
    if layer.axes[-1:] != ("head",):
        return [()]
    return list(product(*(range(size) for size in layer.system.batch)))


def square(layer: InspectedLayer) -> bool:
    """Whether the map has one row and one column for every token."""
    system = layer.system
    reads = getattr(system, "read_steps", system.steps)
    return reads == system.steps and system.input_size == system.output_size == 1


def causal(part: Part, where: Where) -> Certificate:
    """No weight on a later token, for maps whose rows and columns are the same tokens in order."""
    claim = "no token reads a later one"
    if not square(part.layer) or getattr(part.layer, "columns", "token") == "slot":
        return _not_applicable(claim, "rows and columns are not tokens")
    numbers = [getattr(part.layer, name, None) for name in ("row_tokens", "column_tokens")]
    given = [each for each in numbers if each is not None]
    if not all(map(_increases, given)) or (len(given) == 2 and not torch.equal(*given)):
        return _unknown(claim, "rows and columns do not follow the order of the same tokens")
    return certify.causal(part.weights, folder=where)


def _increases(tokens: Tensor) -> bool:
    """Whether the tokens of a map, -1 for none, are in order."""
    rows = tokens.reshape(-1, tokens.shape[-1])
    return all(bool((row[row >= 0].diff() > 0).all()) for row in rows)


def nonnegative(part: Part, where: Where) -> Certificate:
    """No negative weight."""
    return certify.nonnegative(part.weights, folder=where)


def sums_to_one(part: Part, where: Where) -> Certificate:
    """Every row sums to one, up to float32 rounding; a row of zeros does not."""
    return certify.row_sums(part.weights, tolerance=SUM_TOLERANCE, folder=where)


SEVERAL = "several maps at once are not decided"
DIFFERENT_ROWS = "different queries get different rows"


def injective(part: Part, where: Where) -> Certificate:
    """Different queries have different rows, for softmax and normalised linear attention.

    Of softmax attention every row is decided that shows as many keys as a rank needs, on the keys
    that it shows: those that neither the order of the tokens nor the bias hides.
    """
    mixer: Any = part.layer.mixer
    if isinstance(mixer, LinearAttention | SoftmaxAttention) and mixer.key[part.index].ndim > 2:
        return _unknown(DIFFERENT_ROWS, SEVERAL)
    if type(mixer) is LinearAttention:
        return _linear_injective(mixer, part.index, where)
    if type(mixer) is not SoftmaxAttention:
        return _not_applicable(DIFFERENT_ROWS, "decided for softmax and linear attention only")
    obstacle = _obstacle(part)
    return _unknown(DIFFERENT_ROWS, obstacle) if obstacle else _softmax_injective(part, where)


def _softmax_injective(part: Part, where: Where) -> Certificate:
    mixer: Any = part.layer.mixer
    allowed, shown = _read_keys(part)
    key = mixer.key[part.index].cpu()
    sink = mixer.sink is not None and float(mixer.sink[part.index]) > -math.inf
    most, needed = int(shown.sum(dim=-1).max()), key.shape[-1] + (not sink)
    if most < needed:
        return _not_applicable(
            DIFFERENT_ROWS, f"no row shows more than {most} keys, but {needed} are needed"
        )
    if mixer.causal and torch.equal(shown, torch.ones_like(shown).tril()):
        return certify.injective(key, sink=sink, folder=where)
    if torch.equal(shown, allowed):
        return certify.injective(key, shown=shown, sink=sink, folder=where)
    # Further keys can only raise the rank: a proof remains valid, a refutation must hold with them.
    for keys, wanted in ((shown, Verdict.PROVED), (allowed, Verdict.REFUTED)):
        if certify.injective(key, shown=keys, sink=sink).verdict is wanted:
            return certify.injective(key, shown=keys, sink=sink, folder=where)
    return _unknown(DIFFERENT_ROWS, "some weights are zero by rounding alone")


def _obstacle(part: Part) -> str:
    """Why the rank of the keys does not decide on a head of softmax attention, or nothing."""
    mixer: Any = part.layer.mixer
    if mixer.softcap is not None:
        return "a soft cap makes the scores nonlinear, so the rank of the keys does not decide"
    if mixer.scale is not None and not 0 < abs(mixer.scale) < math.inf:
        return f"the scale of the scores is {mixer.scale}"
    extra = [each[part.index] for each in (mixer.bias, mixer.sink) if each is not None]
    if not all(bool((each < math.inf).all()) for each in (part.weights, *extra)):
        return "a weight, a bias or a sink is not finite"
    return ""


def _read_keys(part: Part) -> tuple[Tensor, Tensor]:
    """The keys that every row may read, and those of them with a weight in the map.

    A bias of -10000 hides a key as well as -inf does; without a bias all that may be read counts.
    """
    mixer: Any = part.layer.mixer
    allowed = torch.ones_like(part.weights, dtype=torch.bool, device="cpu")
    if mixer.causal:
        allowed = allowed.tril()
    if mixer.bias is None:
        return allowed, allowed
    allowed = allowed & ~mixer.bias[part.index].isneginf().cpu()
    return allowed, allowed & (part.weights.cpu() != 0)


def _linear_injective(mixer: LinearAttention, index: tuple[int, ...], where: Where) -> Certificate:
    if not mixer.normalised:
        return _not_applicable(DIFFERENT_ROWS, "its rows have no normaliser")
    if mixer.epsilon != 0:
        return _unknown(DIFFERENT_ROWS, "an epsilon in the normaliser tells q and 2 q apart")
    for name in ("identity", "relu", "elu_plus_one"):
        if mixer.feature_map is getattr(feature_maps, name, None):
            return certify.linear_injective(mixer.key[index], feature_map=name, folder=where)
    return _unknown(DIFFERENT_ROWS, "no collision is known for this feature map")


def margin(part: Part, where: Where) -> Certificate:
    """How far the keys of softmax attention are from linear dependence, where a row shows all."""
    claim = "the smallest singular value of [keys, 1] has a lower bound"
    mixer: Any = part.layer.mixer
    if type(mixer) is not SoftmaxAttention:
        return _not_applicable(claim, "decided for softmax attention only")
    key = mixer.key[part.index]
    obstacle = SEVERAL if key.ndim > 2 else _obstacle(part)
    if obstacle:
        return _unknown(claim, obstacle)
    if len(key) <= key.shape[-1]:
        return _not_applicable(
            claim, f"there are {len(key)} keys, but {key.shape[-1] + 1} are needed"
        )
    _, shown = _read_keys(part)
    if not bool(shown.all(dim=-1).any()):
        return _unknown(claim, "no row shows all keys")
    return certify.margin(key, folder=where)


def nonexpansive(part: Part, where: Where) -> Certificate:
    """No transition of a delta rule expands the state, its decay included."""
    claim = "no transition expands"
    mixer: Any = part.layer.mixer
    if type(mixer) not in (DeltaNet, GatedDeltaNet):
        return _not_applicable(claim, "decided for delta rules with one decay per token only")
    parts = [mixer.key[part.index], mixer.rate[part.index]]
    if type(mixer) is GatedDeltaNet:
        parts.append(mixer.log_decay[part.index])
    if parts[0].ndim > 2 or any(tensor.is_complex() for tensor in parts):
        return _unknown(claim, "several maps, or complex coefficients, are not decided")
    return certify.nonexpansive(*parts, folder=where)


def forgets(part: Part, where: Where) -> Certificate:
    """The decays over the whole sequence multiply to at most a half, for one decay per token."""
    claim = "the decay over the whole sequence is at most a half"
    mixer: Any = part.layer.mixer
    logs = getattr(mixer, "log_decay", None)
    # The mixer's class declares the axes of its fields.
    declared = type(mixer).__dataclass_fields__.get("log_decay")
    axes = None if declared is None else axes_of(declared.type)
    if not isinstance(logs, Tensor) or axes != "*batch time":
        return _not_applicable(claim, "this mixer has no single decay per token")
    if logs.is_complex():
        return _unknown(claim, "its decays are complex")
    logs = logs[part.index]
    return certify.decay(logs, width=logs.shape[-1], most=MAX_LEFT, folder=where)


def _no_parameters(_found: Accepted) -> Mapping[str, Any]:
    return {}


def _needed_keys(found: Accepted) -> int:
    """The number of keys from which a row can be injective."""
    return found.shapes["key"][-1] + (not found.parameters["sink"])


PROPERTIES: dict[str, Property] = {
    "causal": Property(causal, {"causal": _no_parameters}),
    "nonnegative": Property(nonnegative, {"nonnegative": _no_parameters}),
    "sums_to_one": Property(
        sums_to_one,
        {"row_sums": lambda _: {"target": Fraction(1), "tolerance": Fraction(SUM_TOLERANCE)}},
    ),
    "injective": Property(
        injective,
        {
            "injective": lambda found: {"first_row": _needed_keys(found) - 1},
            "injective_masked": lambda found: {"least": _needed_keys(found)},
            "linear_injective": _no_parameters,
        },
    ),
    "margin": Property(margin, {"margin": lambda found: {"first_row": found.shapes["key"][0] - 1}}),
    "nonexpansive": Property(
        nonexpansive, {"nonexpansive": _no_parameters, "nonexpansive_decayed": _no_parameters}
    ),
    "forgets": Property(
        forgets,
        {
            "decay": lambda found: {
                "width": found.shapes["log_decay"][-1],
                "most": Fraction(MAX_LEFT),
            }
        },
    ),
}


def _undecided(verdict: Verdict, claim: str, reason: str) -> Certificate:
    return Certificate(
        claim=claim,
        verdict=verdict,
        level=Level.DATA,
        scope=INPUT,
        method="none applies",
        limits={"reason": reason},
    )


_unknown = partial(_undecided, Verdict.UNKNOWN)
_not_applicable = partial(_undecided, Verdict.NOT_APPLICABLE)


class VerdictCount(NamedTuple):
    """The numbers of heads or layers with each verdict on one property.

    ``observed`` is the worst measured value: the largest by magnitude, for a margin the smallest;
    None where nothing was measured. ``claim`` says what was decided, as ``stated`` does.
    """

    layer: str
    property: str
    proved: int
    refuted: int
    unknown: int
    not_applicable: int
    observed: float | None
    reason: str
    claim: str


def verdict_counts(verdicts: Table) -> list[VerdictCount]:
    """The counts of a table of ``verdicts``, in its order."""
    found = []
    for layer, name in dict.fromkeys((each["layer"], each["property"]) for each in verdicts):
        part = verdicts.where(layer=layer, property=name)
        counts = Counter(record["verdict"] for record in part)
        observed = [record["observed"] for record in part if record["observed"] is not None]
        worst = (min if name == "margin" else max)(observed, key=abs, default=None)
        count = VerdictCount(
            layer=layer,
            property=name,
            proved=counts["PROVED"],
            refuted=counts["REFUTED"],
            unknown=counts["UNKNOWN"],
            not_applicable=counts["NOT APPLICABLE"],
            observed=worst,
            reason=next((record["limits"] for record in part if record["limits"]), ""),
            claim=stated(part),
        )
        found.append(count)
    return found


DECIDED, UNDECIDED = ("PROVED", "REFUTED"), ("UNKNOWN", "NOT APPLICABLE")
MAX_SENTENCES = 3


def stated(records: Table) -> str:
    """What the certificates of one property say.

    It is their sentence where all say the same, the weakest bound with its head where the bounds
    differ, and else every sentence with the number of its heads.
    """
    decided = [record for record in records if record["verdict"] in DECIDED] or list(records)[:1]
    counts = Counter(str(record["claim"] or "") for record in decided)
    if len(counts) == 1:
        return next(iter(counts))
    bounded = [record for record in decided if record["bound"] is not None]
    if len(bounded) == len(decided):
        weakest = min(bounded, key=lambda record: record["bound"])
        return f"{weakest['claim']} (the weakest, {weakest['layer']}, {part_of(weakest)})"
    listed = [f"{claim} ({count} times)" for claim, count in counts.most_common(MAX_SENTENCES)]
    more = len(counts) - len(listed)
    return "; ".join([*listed, *([f"and {more} more sentences"] if more else [])])


BESIDE_THE_PART = {
    "layer", "family", "property", "verdict", "level", "scope", "bound", "observed", "claim",
    "limits", "certificate", "identity",
}  # fmt: skip


def part_of(record: Mapping[str, Any]) -> str:
    """The head that a record of verdicts is about, in words."""
    return in_words({k: v for k, v in record.items() if k not in BESIDE_THE_PART})
