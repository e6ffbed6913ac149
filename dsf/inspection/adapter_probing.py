"""An adapter's map against the one that unit values give."""

from dataclasses import replace
from functools import partial
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.certificates.laws import Case, Law, difference
from dsf.inspection.adapter_subject import Subject
from dsf.inspection.chain import Scale
from dsf.inspection.errors import InspectionError
from dsf.inspection.layout import width_of
from dsf.inspection.probing import FAMILY, Probe
from dsf.inspection.result import InspectedLayer
from dsf.inspection.whole import WholeMixer

ELSEWHERE = (
    "the ports that were found may stand around more or less than the mixer: name them (value=..., "
    "response=...)"
)


def probing(owner: str, subject: Subject, how: Probe) -> Certificate:
    """The map against the one that unit values give, where the values can be driven.

    A difference refutes an adapter only if the ports were named.
    """
    law = Law(owner, "probing", "unit values give the map", subject.adapter.tolerance)
    cases, reasons = _cases(subject, how)
    found = law.judged(cases, method=f"unit values; {dict(subject.label) or 'as given'}")
    if found.verdict is Verdict.REFUTED and how.value is None:
        limits = {"reason": f"difference {found.observed}, but {ELSEWHERE}"}
        return replace(found, verdict=Verdict.UNKNOWN, witness=None, limits=limits)
    if found.verdict is Verdict.UNKNOWN and reasons:
        return replace(found, limits={"reason": "; ".join(reasons)})
    return found


def _cases(subject: Subject, how: Probe) -> tuple[list[Case], list[str]]:
    known = _known(subject)
    cases: list[Case] = []
    reasons: list[str] = []
    for path in subject.paths:
        name = path or type(subject.model).__name__
        try:
            layers = subject.layers(exact=True, probe={path: how})
        except InspectionError as error:
            reasons.append(str(error))
            continue
        one = [layer for layer in known if layer.name == name]
        driven = [layer for layer in layers if layer.name == name and layer.family == FAMILY]
        if len(one) == len(driven) == 1 and driven[0].axes[-1] != "input":
            case = {"module": path, **subject.label}
            cases.append((case, partial(_apart, driven[0], one[0])))
        else:
            reasons.append(f"{name}: the channels mix, or the values cannot be driven")
    return cases, reasons


def _known(subject: Subject) -> list[InspectedLayer]:
    try:
        return subject.exact_layers()
    except InspectionError:  # other laws say so
        return []


def _apart(driven: InspectedLayer, known: InspectedLayer) -> float:
    """From the mixer's map, the same behind its gate, or the whole layer's: where the ports are.

    Or from the map of values that have passed the mixer's own input gate.
    """
    probed, map = by_channel(driven), by_channel(known)
    expected = [map]
    gated = _gated(probed, known)
    shell: Any = known.shell
    if shell is not None and shell.args[1].enter is not None:
        whole = known.whole
        stages = tuple(whole.leave.before_projection()) if isinstance(whole, WholeMixer) else ()
        factors = [stage.factor for stage in stages if isinstance(stage, Scale)]
        if len(factors) == len(stages):
            expected.append(_scaled(map, factors))
        expected.append(known.mixer_map())
    nearest = min(difference(probed, each) for each in expected)
    return nearest if gated is None else min(nearest, difference(gated, map))


def _gated(
    probed: Float[Tensor, "sample channel time read"], known: InspectedLayer
) -> Float[Tensor, "sample channel time read"] | None:
    """``probed`` behind the input gate of a mixer with one state for every channel."""
    gate = getattr(known.system, "B", None)
    if known.axes[-1] != "channel" or gate is None or gate.shape[-2:] != (1, 1):
        return None
    return probed * gate.flatten(-3).unsqueeze(-2)


def _scaled(
    map: Float[Tensor, "sample channel time read"], factors: list[Tensor]
) -> Float[Tensor, "sample channel time read"]:
    for factor in factors:
        map = factor.expand(map.shape[0], map.shape[2], map.shape[1]).mT.unsqueeze(-1) * map
    return map


def by_channel(layer: InspectedLayer) -> Shaped[Tensor, "sample channel time read"]:
    """The map once for every channel, without the columns of ports that hold ones."""
    ports = layer.mixer.signal().shape[-2]
    map = layer.map().unflatten(-1, (-1, ports))[..., 0]
    map = map.flatten(1, -3) if map.ndim > 3 else map.unsqueeze(1)
    value = getattr(layer.mixer, "value", None)
    width = width_of(value) if isinstance(value, Tensor) and value.ndim > 2 else map.shape[1]
    return map.repeat_interleave(max(width // map.shape[1], 1), dim=1)
