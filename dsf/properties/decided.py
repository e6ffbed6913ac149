"""Decides the properties of inspected layers, as ``dsf check`` prints them.

``findings`` decides every property in ``PROPERTIES`` for every head, each with a certificate.
``verdicts`` lists them as a table, and ``verdict_counts`` counts them by layer and property.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsf import certificates as certify
from dsf.certificates import Certificate, Level, Verdict
from dsf.ingredients import feature_maps
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.results.table import Table
from dsf.mixers import DeltaNet, GatedDeltaNet, LinearAttention, SoftmaxAttention

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
        index: the place of the head on the batch axes; empty for a whole layer.
        weights: the map of this part.
    """

    layer: InspectedLayer
    index: tuple[int, ...]
    weights: Tensor


Decide = Callable[[Part, Path | None], Certificate | None]


def findings(
    layer: InspectedLayer, *, folder: Path | None = None, weights: Tensor | None = None
) -> Iterator[Finding]:
    """Decide every property that is defined for ``layer``.

    Layers with a head axis are decided head by head, layers whose channels are separate systems as
    a whole. Certificates are written to ``folder`` if one is given.

    Args:
        weights: the map of the layer, where it was computed before.
    """
    weights = layer.map() if weights is None else weights
    for index in _parts(layer):
        place = dict(zip(layer.axes, layer.place(index), strict=False))
        part = Part(layer, index, weights[index])
        for name, decide in PROPERTIES.items():
            certificate = decide(part, folder)
            if certificate is not None:
                yield Finding(layer.name, layer.family, place, name, certificate)


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
                "bound": certificate.bound,
                "observed": certificate.observed,
                "claim": certificate.claim,
                "limits": "; ".join(f"{k}: {v}" for k, v in certificate.limits.items()),
            }
        )
    return Table(tuple(records))


def _parts(layer: InspectedLayer) -> list[tuple[int, ...]]:
    if layer.axes[-1:] != ("head",):
        return [()]
    return list(product(*(range(size) for size in layer.system.batch)))


def square(layer: InspectedLayer) -> bool:
    """Whether the map has one row and one column for every token."""
    system = layer.system
    reads = getattr(system, "read_steps", system.steps)
    return reads == system.steps and system.input_size == system.output_size == 1


def causal(part: Part, folder: Path | None) -> Certificate | None:
    """No weight on a later token, for square maps."""
    return certify.causal(part.weights, folder=folder) if square(part.layer) else None


def nonnegative(part: Part, folder: Path | None) -> Certificate:
    """No negative weight."""
    return certify.nonnegative(part.weights, folder=folder)


def sums_to_one(part: Part, folder: Path | None) -> Certificate:
    """Every row sums to one, up to float32 rounding; a row of zeros does not."""
    return certify.row_sums(part.weights, tolerance=SUM_TOLERANCE, folder=folder)


def injective(part: Part, folder: Path | None) -> Certificate | None:
    """Different queries have different rows, for softmax and normalised linear attention.

    A causal head with fewer tokens than key channels is refuted at its last row.
    """
    mixer, index = part.layer.mixer, part.index
    if isinstance(mixer, LinearAttention):
        return _linear(mixer, index, folder)
    if not isinstance(mixer, SoftmaxAttention):
        return None
    key = mixer.key[index]
    sink = mixer.sink is not None
    reason = _hidden(mixer)
    if reason is not None:
        return _unknown("different queries get different softmax rows", reason)
    first = None if mixer.causal else len(key) - 1
    return certify.injective(key, first_row=first, sink=sink, folder=folder)


def margin(part: Part, folder: Path | None) -> Certificate | None:
    """How far all keys of softmax attention are from linear dependence."""
    mixer, index = part.layer.mixer, part.index
    if not isinstance(mixer, SoftmaxAttention) or _hidden(mixer) is not None:
        return None
    key = mixer.key[index]
    return certify.margin(key, folder=folder) if len(key) > key.shape[-1] else None


def nonexpansive(part: Part, folder: Path | None) -> Certificate | None:
    """No delta-rule update expands the state."""
    mixer, index = part.layer.mixer, part.index
    if not isinstance(mixer, DeltaNet | GatedDeltaNet):
        return None
    return certify.nonexpansive(mixer.key[index], mixer.rate[index], folder=folder)


def forgets(part: Part, folder: Path | None) -> Certificate | None:
    """The decay over the whole sequence is at most a half, for one decay per token."""
    logs = getattr(part.layer.mixer, "log_decay", None)
    if not isinstance(logs, Tensor) or logs[part.index].ndim != 1:
        return None
    return certify.decay(logs[part.index], width=logs.shape[-1], most=0.5, folder=folder)


PROPERTIES: dict[str, Decide] = {
    "causal": causal,
    "nonnegative": nonnegative,
    "sums_to_one": sums_to_one,
    "injective": injective,
    "margin": margin,
    "nonexpansive": nonexpansive,
    "forgets": forgets,
}


def _linear(mixer: LinearAttention, index: tuple[int, ...], folder: Path | None) -> Certificate:
    for name in ("identity", "relu", "elu_plus_one"):
        if mixer.normalised and mixer.feature_map is getattr(feature_maps, name, None):
            return certify.linear_injective(mixer.key[index], feature_map=name, folder=folder)
    return _unknown(
        "different queries get different rows of linear attention",
        "no collision is known for this feature map",
    )


def _hidden(mixer: SoftmaxAttention) -> str | None:
    """Why the rank of all keys does not decide injectivity; None if it does."""
    if mixer.softcap is not None:
        return "a soft cap makes the scores nonlinear, so the rank of the keys does not decide"
    if mixer.bias is not None and bool((mixer.bias == -torch.inf).any()):
        return "a mask hides some keys, so the rank of all keys does not decide"
    return None


def _unknown(claim: str, reason: str) -> Certificate:
    return Certificate(
        claim=claim,
        verdict=Verdict.UNKNOWN,
        level=Level.DATA,
        method="none applies",
        limits={"reason": reason},
    )


class VerdictCount(NamedTuple):
    """The numbers of heads or layers with each verdict on one property.

    ``observed`` is the worst measured value: the largest by magnitude, for a margin the smallest;
    None where nothing was measured.
    """

    layer: str
    property: str
    proved: int
    refuted: int
    unknown: int
    observed: float | None
    reason: str


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
        observed=_worst(name, [record["observed"] for record in part]),
        reason=next((record["limits"] for record in part if record["limits"]), ""),
    )


def _worst(name: str, observed: list[Any]) -> float | None:
    seen = [value for value in observed if value is not None]
    return (min if name == "margin" else max)(seen, key=abs, default=None)
