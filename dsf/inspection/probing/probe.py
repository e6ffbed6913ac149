"""Reads the map of a mixer that no adapter knows, by replacing its values with unit values.

Whatever makes the weights of the map (queries, keys, decays) is frozen at its value on the captured
call. If the module is linear from the value port to the response port, which is checked, the
responses are the columns of its exact map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf.composite import ExplicitMap, StoredRows
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing.driven_module import Driven, Repeated
from dsf.inspection.probing.port_search import pairs
from dsf.inspection.probing.ports import Port
from dsf.inspection.probing.unit_values import (
    ROUNDING,
    Linear,
    by_head,
    mixes,
    read_off,
    superposition,
)
from dsf.mixers import Mixer


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StoredMap(Mixer):
    """A map stored entry by entry, and the values it was applied to.

    Attributes:
        axes: what the batch axes count.
        label: how the map was measured, in words: ports, forward passes, superposition error.
    """

    weights: Float[Tensor, "*batch time read"]
    value: Float[Tensor, "*batch read channel"]
    axes: tuple[str, ...] = ("sample", "head")
    label: str = ""

    def system(self) -> ExplicitMap:
        return ExplicitMap(StoredRows(self.weights))

    def signal(self) -> Shaped[Tensor, "*batch read 1 channel"]:
        return self.value.unsqueeze(-2)

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "StoredMap":
        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng, dtype=torch.float64)

        return cls(weights=normal(2, steps, steps), value=normal(2, steps, 3))


FAMILY = "probed"
AXES = {0: ("sample", "output", "input"), 1: ("sample", "channel")}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How to probe a module: the port where its values enter and that where its response leaves.

    Attributes:
        value: by default a tensor that is named like values, or the module's input, provided that
            the module is linear in it.
        response: by default the input of the last submodule up to which the module is linear in its
            values, or the output of the function, or that of the module.
    """

    value: str | Port | None = None
    response: str | Port | None = None

    def adapter(self) -> Adapter:
        """An adapter that reads one module by probing it."""
        prober = _Prober(self)
        return Adapter(families={}, read=prober.read, finish=prober.finish)


class _Prober:
    """The ``read`` and ``finish`` of a probe; ``finish`` belongs to the call that was read last."""

    def __init__(self, probe: Probe):
        self._probe = probe

    def read(self, layer: Captured) -> StoredMap:
        self._driven = self._chosen(Repeated(layer.module, layer.arguments))
        values, _, _ = self._driven.original()
        self._linear = read_off(self._driven, values)
        width = self._linear.width
        return StoredMap(
            weights=self._linear.weights,
            value=_arranged(values, self._linear),
            axes=AXES.get(width, ("sample", "head")),
            label=_label(self._driven, self._linear),
        )

    def finish(self, _: Captured, mixed: Shaped[Tensor, "*batch time 1 channel"]) -> Tensor:
        """The output that the module's own code computes from the response of the map."""
        response = mixed.squeeze(-2)
        if self._linear.width == 0:
            response = response.sum(dim=2).squeeze(-1).mT
        else:
            response = response.transpose(1, 2).flatten(2)
        return self._driven.output(response + self._linear.rest)

    def _chosen(self, call: Repeated) -> Driven:
        """The named ports, or else the first pair between which the module is linear."""
        if self._probe.value is not None:
            value = _port(self._probe.value)
            usual = value.name if value.argument else ""
            response = Port(usual) if self._probe.response is None else _port(self._probe.response)
            return Driven(call, value, response)
        tried: dict[str, float] = {}
        for value, found in pairs(call):
            response = found if self._probe.response is None else _port(self._probe.response)
            driven = Driven(call, value, response)
            try:
                values, _, _ = driven.original()
                if not mixes(driven, values):
                    continue
                bent = superposition(driven, values)
            except InspectionError:  # not called, or of another shape
                continue
            if bent <= ROUNDING:
                return Driven(call, value, response)
            tried[f"{value.where} to {response.where or 'the output'}"] = bent
        raise UnreadableError(_unfound(tried))


def probes(model: nn.Module, wanted: Mapping[str, Probe] | Sequence[str]) -> dict[str, Adapter]:
    """An adapter for every module that is to be probed, by its path.

    Raises:
        InspectionError: if there is no such module.
        TypeError: if ``wanted`` is neither a sequence of paths nor a mapping to ``Probe``.
    """
    if isinstance(wanted, str):
        raise TypeError(f"probe: must be a tuple of paths; for one pass probe=({wanted!r},).")
    given = wanted if isinstance(wanted, Mapping) else {path: Probe() for path in wanted}
    there = dict(model.named_modules())
    for path, how in given.items():
        if path not in there:
            raise InspectionError(
                f"probe: {type(model).__name__} has no module '{path}'. Its modules are those of "
                f"model.named_modules(), such as {', '.join(list(there)[1:4]) or 'none'}."
            )
        if not isinstance(how, Probe):
            raise TypeError(f"probe: '{path}' needs a dsf.inspection.Probe, but it is {how!r}.")
    return {path: how.adapter() for path, how in given.items()}


def _port(given: str | Port) -> Port:
    return Port(given) if isinstance(given, str) else given


def _arranged(values: Tensor, linear: Linear) -> Tensor:
    """The values in the axes of the map."""
    if linear.width == 0:
        outputs = linear.weights.shape[1]
        each = values.mT.unsqueeze(1).unsqueeze(-1)
        return each.expand(-1, outputs, -1, -1, -1)
    return by_head(values, linear.weights, linear.width)


def _label(driven: Driven, linear: Linear) -> str:
    steps, reads = linear.weights.shape[-2:]
    ahead = linear.ahead if steps == reads else None
    causal = (
        "" if ahead is None else ", causal" if ahead == 0 else f", reads later tokens ({ahead:.0e})"
    )
    affine = "" if not bool(torch.any(linear.rest)) else ", and a constant"
    return (
        f"probed from {driven.value.where} to {driven.response.where or 'the output'} in "
        f"{driven.passes} passes: linear (superposition error {linear.superposition:.0e}){causal}"
        f"{affine}"
    )


def _unfound(tried: Mapping[str, Any]) -> str:
    if not tried:
        return (
            "no values were found in it: name the port where they enter (value='v_proj', or "
            "value='function(argument)')"
        )
    where = min(tried, key=lambda name: tried[name])
    return (
        f"it is not linear in its values: superposition error {tried[where]:.1e} from {where}; "
        "if it is linear between other ports, name them (value=..., response=...)"
    )
