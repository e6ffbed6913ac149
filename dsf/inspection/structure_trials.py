"""Tries modules of unknown classes as the families whose parameters they have.

What a family makes of the recorded input is compared with the module itself in float64. What fits
is read; of what does not fit it is said by how much it is off.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Invocation, Through, begun, bound
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.families.registry import Known
from dsf.inspection.families.structure import Structure
from dsf.inspection.rebuild import Limits, rebuild
from dsf.inspection.results.layers import InspectedLayer

Candidates = Mapping[str, tuple[Structure, ...]]


@contextmanager
def noting(modules: Mapping[str, nn.Module], where: ModuleStack) -> Iterator[None]:
    """Keep what these modules are called with and put out, inside the ``with`` block."""

    def note(module: nn.Module, _: object) -> None:
        frame = where.frame_of(module)
        is_asking = where.tracker is not None and where.tracker.is_asking
        if frame is not None and not is_asking and not where.is_claimed():
            begun(frame, where)

    handles = [module.register_forward_pre_hook(note) for module in modules.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(eq=False)
class Trials:
    """What became of the modules that were tried.

    Attributes:
        known: the adapter and family of every module that fits, by its path.
        calls: of these modules.
        layers: what was built of a call already, so that it need not be built again.
        failed: by the path of a module that fits no family, what it was tried as, in words.
    """

    known: Known = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    layers: dict[Call, InspectedLayer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def covers(self, time: int) -> bool:
        """Whether what happened at a time happened inside of a module that was read."""
        spans = (call.invocation for call in self.calls)
        return any(one is not None and one.began <= time < one.ended for one in spans)


def tried(model: nn.Module, where: ModuleStack, possible: Candidates, limits: Limits) -> Trials:
    """Try every module that ran as each of the families that it may be one of."""
    found = Trials()
    of_class: dict[type, tuple[str, int]] = {}
    runs: dict[nn.Module, list[Invocation]] = {}
    for one in where.invocations:
        runs.setdefault(one.module, []).append(one)
    for path, structures in possible.items():
        module = model.get_submodule(path)
        calls = [_call(path, each) for each in runs.get(module, ()) if each.ended]
        if not calls or found.covers(calls[0].time - 1):
            continue
        kind = type(module)
        fitting = _fitting(calls[0], structures, limits, of_class.get(kind))
        if isinstance(fitting, str):
            found.failed[path] = fitting
            continue
        adapter, family, layer, of_class[kind] = fitting
        found.known[path] = adapter, family
        found.calls += calls
        found.layers[calls[0]] = layer
    return found


def _call(path: str, one: Invocation) -> Call:
    arguments = bound(one.module.forward, one.args, one.kwargs)
    call = Call(path, one.module, arguments, one.output, 0, Through.MODULE)
    call.invocation, call.time = one, one.ended
    call.seen = {"output": one.made[0]} if one.made else {}
    return call


def _fitting(
    call: Call, structures: Sequence[Structure], limits: Limits, first: tuple[str, int] | None
) -> tuple[Adapter, str, InspectedLayer, tuple[str, int]] | str:
    """The adapter that reproduces a call, with its place; or what the call was tried as."""
    readings = {
        (structure.title, k): (structure, adapter)
        for structure in structures
        for k, adapter in enumerate(structure.readings(call.module))
    }
    order = sorted(readings, key=lambda place: place != first)
    off: dict[str, float] = {}
    words: dict[str, str] = {}
    for place in order:
        structure, adapter = readings[place]
        try:
            (layer,) = (build() for _, build in rebuild(call, adapter, structure.family, limits))
        except ReconstructionError as error:
            before = off.get(structure.title, math.inf)
            off[structure.title] = min(before, error.formula) if error.formula >= 0 else before
            words.setdefault(structure.title, _own_words(error))
        except InspectionError as error:
            words.setdefault(structure.title, str(error).rstrip("."))
        else:
            return adapter, structure.family, layer, place
    return "; ".join(
        f"tried as {title}, off by {off[title]:.1g}"
        if math.isfinite(off.get(title, math.inf))
        else f"tried as {title}, which fails: {reason}"
        for title, reason in words.items()
    )


def _own_words(error: ReconstructionError) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__}: {cause}".rstrip(". \n") if cause else str(error).rstrip(".")
