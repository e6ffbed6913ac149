"""Decides the properties of inspected layers, as ``dsf check`` prints them.

``findings`` decides every property in ``PROPERTIES`` for every head, each with a certificate.
``verdicts`` lists them as a table, and ``verdict_counts`` counts them by layer and property.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsf import certificates as certify
from dsf.certificates import Certificate, Level, Verdict
from dsf.certificates.issuing import INPUT, Destination, Where
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.results.table import Table
from dsf.mixers import DeltaNet, GatedDeltaNet, LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients import feature_maps
from dsf.properties.names import IF_NOT

SUM_TOLERANCE = 1e-6


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
            into every certificate beside the layer, the head and the property.
    """
    weights = layer.map() if weights is None else weights
    for index in _indices(layer):
        head = layer.place(index)
        place = dict(zip(layer.axes, head, strict=False))
        part = Part(layer, head, weights[index])
        for name, decide in PROPERTIES.items():
            told = {"input": "the input of this run", **(source or {}), "layer": layer.name}
            told |= {"family": layer.family, "part": in_words(place), "property": name}
            certificate = decide(part, Destination(folder, told))
            yield Finding(layer.name, layer.family, place, name, certificate)


def in_words(part: Mapping[str, int]) -> str:
    """A head as provenance names it: ``sample 0, head 1``, or the whole layer."""
    return ", ".join(f"{axis} {index}" for axis, index in part.items()) or "the whole layer"


def verdicts(found: list[Finding]) -> Table:
    """One record for every finding."""
    records = []
    for finding in found:
        certificate = finding.certificate
        records.append(
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
        )
    return Table(tuple(records))


def parts_of(layer: InspectedLayer) -> list[dict[str, int]]:
    """The heads that are decided one by one, by their places on the axes; or the whole layer."""
    return [dict(zip(layer.axes, layer.place(index), strict=False)) for index in _indices(layer)]


def _indices(layer: InspectedLayer) -> list[tuple[int, ...]]:
    if layer.axes[-1:] != ("head",):
        return [()]
    return list(product(*(range(size) for size in layer.system.batch)))


def square(layer: InspectedLayer) -> bool:
    """Whether the map has one row and one column for every token."""
    system = layer.system
    reads = getattr(system, "read_steps", system.steps)
    return reads == system.steps and system.input_size == system.output_size == 1


def causal(part: Part, folder: Where) -> Certificate:
    """No weight on a later token, for square maps."""
    if not square(part.layer):
        return _not_applicable("no token reads a later one", "rows and columns are not tokens")
    return certify.causal(part.weights, folder=folder)


def nonnegative(part: Part, folder: Where) -> Certificate:
    """No negative weight."""
    return certify.nonnegative(part.weights, folder=folder)


def sums_to_one(part: Part, folder: Where) -> Certificate:
    """Every row sums to one, up to float32 rounding; a row of zeros does not."""
    return certify.row_sums(part.weights, tolerance=SUM_TOLERANCE, folder=folder)


DIFFERENT_ROWS = "different queries get different rows"


def injective(part: Part, folder: Where) -> Certificate:
    """Different queries have different rows, for softmax and normalised linear attention.

    Keys that a bias hides, because the map has a zero there, do not count: where some are hidden,
    the claim is about the last row and the keys that it shows.
    """
    mixer, index = part.layer.mixer, part.index
    if isinstance(mixer, LinearAttention):
        return _linear(mixer, index, folder)
    if not isinstance(mixer, SoftmaxAttention):
        return _not_applicable(DIFFERENT_ROWS, "this mixer has no queries and keys of attention")
    if mixer.softcap is not None:
        return _unknown(DIFFERENT_ROWS, SOFT_CAP)
    keys = shown_keys(part)
    sink = mixer.sink is not None
    needed = keys.key.shape[-1] + (not sink)
    if len(keys.key) < needed:
        return _not_applicable(DIFFERENT_ROWS, keys.too_few(needed))
    first = None if mixer.causal and not keys.hidden else len(keys.key) - 1
    return certify.injective(keys.key, first_row=first, sink=sink, folder=keys.told(folder))


def margin(part: Part, folder: Where) -> Certificate:
    """How far the keys of softmax attention are from linear dependence."""
    claim = "the smallest singular value of [keys, 1] has a lower bound"
    mixer = part.layer.mixer
    if not isinstance(mixer, SoftmaxAttention):
        return _not_applicable(claim, "this mixer has no keys of softmax attention")
    if mixer.softcap is not None:
        return _not_applicable(claim, SOFT_CAP)
    keys = shown_keys(part)
    needed = keys.key.shape[-1] + 1
    if len(keys.key) < needed:
        return _not_applicable(claim, keys.too_few(needed))
    return certify.margin(keys.key, folder=keys.told(folder))


def nonexpansive(part: Part, folder: Where) -> Certificate:
    """No transition of a delta rule expands the state, its decay included."""
    mixer, index = part.layer.mixer, part.index
    if isinstance(mixer, GatedDeltaNet):
        logs = mixer.log_decay[index]
        return certify.nonexpansive(mixer.key[index], mixer.rate[index], logs, folder=folder)
    if isinstance(mixer, DeltaNet):
        return certify.nonexpansive(mixer.key[index], mixer.rate[index], folder=folder)
    return _not_applicable("no transition expands", "this mixer has no delta rule")


def forgets(part: Part, folder: Where) -> Certificate:
    """The decay over the whole sequence is at most a half, for one decay per token."""
    logs = getattr(part.layer.mixer, "log_decay", None)
    if not isinstance(logs, Tensor) or logs[part.index].ndim != 1:
        claim = "the decay over the whole sequence is at most a half"
        return _not_applicable(claim, "this mixer has no single decay per token")
    return certify.decay(logs[part.index], width=logs.shape[-1], most=0.5, folder=folder)


_DECIDE = {
    decide.__name__: decide
    for decide in (causal, nonnegative, sums_to_one, injective, margin, nonexpansive, forgets)
}
PROPERTIES: dict[str, Decide] = {name: _DECIDE[name] for name in IF_NOT}
SOFT_CAP = "a soft cap makes the scores nonlinear, so the rank of the keys does not decide"


class ShownKeys(NamedTuple):
    """The keys that a head shows: all of them, or those with a weight in its last row.

    ``hidden`` counts the keys that a bias keeps from the last row.
    """

    key: Tensor
    hidden: int

    def too_few(self, needed: int) -> str:
        """Why a rank of ``needed`` cannot be reached."""
        behind = f", since a mask hides {self.hidden}" if self.hidden else ""
        return f"{len(self.key)} keys are shown{behind}, but {needed} are needed"

    def told(self, folder: Where) -> Where:
        """The destination, with what was left out."""
        if not self.hidden or not isinstance(folder, Destination):
            return folder
        keys = f"those that the last row shows; a mask hides {self.hidden}"
        return replace(folder, provenance={**folder.provenance, "keys": keys})


def shown_keys(part: Part) -> ShownKeys:
    """The keys whose weights the map of a softmax head shows."""
    mixer: Any = part.layer.mixer
    key = mixer.key[part.index]
    if mixer.bias is None:
        return ShownKeys(key, 0)
    reach = torch.ones_like(part.weights, dtype=torch.bool)
    zeros = (part.weights == 0) & (reach.tril() if mixer.causal else reach)
    if not bool(zeros.any()):
        return ShownKeys(key, 0)
    shown = part.weights[-1] != 0
    return ShownKeys(key[shown.to(key.device)], int((~shown).sum()))


def _linear(mixer: LinearAttention, index: tuple[int, ...], folder: Where) -> Certificate:
    if not mixer.normalised:
        return _not_applicable(DIFFERENT_ROWS, "its rows have no normaliser")
    for name in ("identity", "relu", "elu_plus_one"):
        if mixer.feature_map is getattr(feature_maps, name, None):
            return certify.linear_injective(mixer.key[index], feature_map=name, folder=folder)
    return _unknown(DIFFERENT_ROWS, "no collision is known for this feature map")


def _unknown(claim: str, reason: str) -> Certificate:
    return _undecided(Verdict.UNKNOWN, claim, reason)


def _not_applicable(claim: str, reason: str) -> Certificate:
    return _undecided(Verdict.NOT_APPLICABLE, claim, reason)


def _undecided(verdict: Verdict, claim: str, reason: str) -> Certificate:
    return Certificate(
        claim=claim,
        verdict=verdict,
        level=Level.DATA,
        scope=INPUT,
        method="none applies",
        limits={"reason": reason},
    )


class VerdictCount(NamedTuple):
    """The numbers of heads or layers with each verdict on one property.

    ``observed`` is the worst measured value: the largest by magnitude, for a margin the smallest;
    None where nothing was measured. ``claim`` is the sentence of the first head that was decided.
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
    pairs = dict.fromkeys((record["layer"], record["property"]) for record in verdicts)
    return [
        _counted(layer, name, verdicts.where(layer=layer, property=name)) for layer, name in pairs
    ]


def _counted(layer: str, name: str, part: Table) -> VerdictCount:
    counts = Counter(record["verdict"] for record in part)
    return VerdictCount(
        layer=layer,
        property=name,
        proved=counts["PROVED"],
        refuted=counts["REFUTED"],
        unknown=counts["UNKNOWN"],
        not_applicable=counts["NOT APPLICABLE"],
        observed=_worst(name, [record["observed"] for record in part]),
        reason=next((record["limits"] for record in part if record["limits"]), ""),
        claim=_claim(part),
    )


DECIDED = ("PROVED", "REFUTED")


def _claim(part: Table) -> str:
    """The sentence of the first head that was decided, or of the first head."""
    decided = [record for record in part if record["verdict"] in DECIDED]
    return str((decided or part)[0].get("claim") or "")


def _worst(name: str, observed: list[Any]) -> float | None:
    seen = [value for value in observed if value is not None]
    return (min if name == "margin" else max)(seen, key=abs, default=None)
