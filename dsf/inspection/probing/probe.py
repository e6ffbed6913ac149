"""Reads the map of a mixer that no adapter knows, by replacing its values with unit values.

Whatever makes the weights of the map (queries, keys, decays) is frozen at its value on the captured
call. If the module is linear from the value port to the response port, which is checked, the
responses are the columns of its exact map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.modes import at_rest
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.causal.coordinates import varies
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing import cells
from dsf.inspection.probing.driven import (
    MOST_PASSES,
    Driven,
    FollowedCall,
    Linear,
    Port,
    Ports,
    as_it_is,
    by_head,
    read_off,
    superposition,
    without_rest,
)
from dsf.inspection.probing.port_choice import (
    Found,
    PortSearch,
    followed,
    named,
    value_among,
)
from dsf.inspection.results.layers import ALL
from dsf.inspection.softmax.attention import GivenWeights


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StoredMap(GivenWeights):
    """A map that was measured entry by entry, and the values it was applied to."""

    axes: tuple[str, ...] = ("sample", "head")
    label: str = ""


Program = tuple[Any, ...]
"""The operations of a call with what they are given but for its numbers, and where tokens lie."""
FAILURES = 2
"""A program is searched no more where nothing was found in so many modules."""
FAMILY = "probed"
MAPS_TOGETHER = 4
"""All maps that are measured unasked may hold so many times the numbers that one may."""
FEW_OPERATIONS, MANY_OPERATIONS, MANY_NUMBERS = 4, 256, 2**20
"""A replay of fewer operations counts as a part of a pass, one of more as several passes.

So does one whose operations read more numbers, such as wide weights.
"""
AXES = {0: ("sample", "output", "input"), 1: ("sample", "channel")}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How to probe a module: the port where its values enter and that where its response leaves.

    Named ports between which no token moves another are refused.

    Attributes:
        value: by default a tensor in which the module is linear, found by trying.
        response: by default the last place up to which the module is linear in its values; or, for
            values that are an argument of a function, what that function returns.
    """

    value: str | Port | None = None
    response: str | Port | None = None


@dataclass(eq=False)
class Budget:
    """How many forward passes of single modules may be spent, and what was spent of them.

    Attributes:
        numbers: the most numbers that one map may hold.
    """

    each: int = MOST_PASSES
    together: int = MOST_PASSES**2
    numbers: int = MOST_PASSES**2
    spent: float = 0.0
    stored: int = 0

    def check(self, share: float, passes: int, size: int) -> None:
        """Raise an error if replays that count as so much of a pass, or a map, are too much."""
        cost = passes * share
        counted = f"{passes} forward passes of it"
        if cost != passes:
            counted += f", which count as {cost:.0f} by their operations or the numbers they read"
        if cost > self.each:
            raise UnreadableError(
                f"its map would take {counted}, more than the {self.each} that are made unasked; "
                "pass probe=(path,) to make them, or name ports between which channels do not mix"
            )
        if self.spent + cost > self.together:
            raise UnreadableError(
                f"its map would take {counted}, but of the {self.together} that are made unasked "
                f"for all modules together {self.spent:.0f} are spent; pass probe=(path,) to make "
                "them"
            )
        if size > self.numbers:
            raise UnreadableError(
                f"its map would hold {size} numbers, more than the {self.numbers} that are "
                "measured unasked; pass probe=(path,) to measure it, or a shorter input"
            )
        if self.stored + size > MAPS_TOGETHER * self.numbers:
            raise UnreadableError(
                f"its map would hold {size} numbers, but of the {MAPS_TOGETHER * self.numbers} "
                f"that are measured unasked for all modules together {self.stored} are held; pass "
                "probe=(path,) to measure it, or a shorter input"
            )


def share_of_pass(operations: int, numbers: int = 0) -> float:
    """How much of a forward pass a replay of operations that read so many numbers counts as."""
    many = max(operations / MANY_OPERATIONS, numbers / MANY_NUMBERS)
    return max(min(operations / FEW_OPERATIONS, 1.0), many)


class Prober:
    """The ``read`` and ``finish`` of a probe; ``finish`` belongs to the call that was read last.

    Args:
        known: by the program of a module the ports that were found in one before, tried first.
        failed: by the program of a module those in which none were found.
        worth: how much of what a token moves in the module the map of a function explains; of the
            functions that are found one that explains all comes first.
    """

    def __init__(
        self,
        probe: Probe,
        budget: Budget | None = None,
        known: dict[Program, Ports] | None = None,
        failed: dict[Program, list[str]] | None = None,
        *,
        worth: Callable[[Driven], float] | None = None,
    ):
        self._probe, self._worth = probe, worth
        self._budget = Budget() if budget is None else budget
        self._known: dict[Program, Ports] = {} if known is None else known
        self._failed: dict[Program, list[str]] = {} if failed is None else failed

    @property
    def adapter(self) -> Adapter:
        """An adapter that reads one module by probing it, called as it was, before its hooks."""
        return Adapter(families={}, read=self.read, finish=self.finish, takes="")

    def read(self, layer: Captured) -> StoredMap:
        self.driven = driven = self._chosen(layer)
        values, _, _ = driven.original()
        share = share_of_pass(*driven.work)
        allow = partial(self._budget.check, share)
        try:
            with at_rest():
                self._linear = read_off(driven, values, rounding=driven.rounding, allow=allow)
        finally:
            self._budget.spent += driven.passes * share
        self._budget.stored += self._linear.weights.numel()
        if self._probe.value is not None and not _mixes(driven, self._linear):
            value, response = driven.ports.names
            raise UnreadableError(
                f"between the ports '{value}' and '{response}' no token moves another, so there is "
                "no map of tokens to read: name ports with the mixing of tokens between them, or "
                "none, to have them found"
            )
        return StoredMap(
            weights=in_float64(self._linear.weights),
            value=in_float64(_arranged(values, self._linear)),
            axes=AXES.get(self._linear.width, ("sample", "head")),
            label=_label(driven, self._linear),
        )

    def finish(self, _: Captured, mixed: Shaped[Tensor, "*batch time 1 channel"]) -> Tensor:
        """The output that the module's own code computes from the response of the map."""
        response = mixed.squeeze(-2)
        if self._linear.width == 0:
            response = response.sum(dim=2).squeeze(-1).mT
        else:
            response = response.transpose(1, 2).flatten(2)
        return self.driven.output(response + self._linear.rest)

    def _chosen(self, layer: Captured) -> Driven:
        """The function between the named or found ports."""
        value, response = (
            Port(port) if isinstance(port, str) else port
            for port in (self._probe.value, self._probe.response)
        )
        call = followed(layer, [port for port in (value, response) if port and port.name])
        if value is not None:
            response = Port(value.name if value.argument else "") if response is None else response
            are_whole = value.view is response.view is as_it_is and not response.where
            is_argument = are_whole and not value.name
            direct = value_among(call, wanted=value.argument) if is_argument else None
            return Driven(call, direct or named(call, value, response))
        is_alone = self._worth is None and response is None
        direct = value_among(call, fewest=2) if is_alone else None
        if direct is None:
            try:
                return self._found(call, response, layer.name)
            except UnreadableError:
                direct = value_among(call) if is_alone else None
                if direct is None:
                    raise
        return Driven(call, direct)

    def _found(self, call: FollowedCall, response: Port | None, name: str) -> Driven:
        """The function between the places that a search finds."""
        # The places of ports are numbered within one program.
        program = _program_of(call)
        before, failed = self._known.get(program), self._failed.setdefault(program, [])
        if before is not None and not before.layouts:  # which are of the tensors of that module
            try:
                driven = Driven(call, before)
                values, _, _ = driven.original()
                if superposition(without_rest(driven, values)[0], values) <= call.rounding:
                    return driven
            except Exception:  # noqa: S110  # operations may refuse other numbers
                pass
        if len(failed) >= FAILURES:
            raise UnreadableError(
                f"nothing was looked for in it, since it does what {' and '.join(failed)} do with "
                "other numbers, and nothing was found in these"
            )
        start = call.recording.replays
        try:
            found = self._searched(call, response)
        except UnreadableError:
            failed.append(f"'{name}'")
            raise
        finally:
            share = share_of_pass(len(call.recording.operations))
            self._budget.spent += (call.recording.replays - start) * share
        if found.ports.loop is None:
            self._known[program] = found.ports
        return Driven(call, found.ports)

    def _searched(self, call: FollowedCall, response: Port | None) -> Found:
        """The pair that explains most; that of the steps of a loop where no other explains all."""
        worth = self._worth if response is None else None
        try:
            found = PortSearch(call, response).best(self._worth, most=self._budget.each)
        except UnreadableError:
            steps = None if worth is None else self._of_steps(call, worth)
            if steps is None:
                raise
            return steps
        if worth is None or not any(cells.loops(call)):
            return found
        is_all = worth(Driven(call, found.ports)) >= ALL
        return found if is_all else self._of_steps(call, worth, found) or found

    def _of_steps(
        self, call: FollowedCall, worth: Callable[[Driven], float], found: Found | None = None
    ) -> Found | None:
        """The pair of the steps of a loop that explains all; else what was found or is too dear."""
        for one in cells.pairs_in(call):
            driven = Driven(call, one.ports)
            if one.cost * share_of_pass(*driven.work) > self._budget.each:
                found = found or one
            elif worth(driven) >= ALL:
                return one
        return found


def _program_of(call: FollowedCall) -> Program:
    operations = call.recording.operations
    run = [(one.name, one.outs, *tree_leaves((one.args, one.kwargs))) for one in operations]
    lie = [
        (place, dim)
        for place, made in enumerate(filter(None, call.made_of))
        for dim in range(len(made.shape))
        if any(varies(plane, dim) for axis, plane in made.planes.items() if axis in call.along)
    ]
    return *run, *lie


def probers(model: nn.Module, wanted: Mapping[str, Probe] | Sequence[str]) -> dict[str, Prober]:
    """A prober for every module that is to be probed, by its path."""
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
    return {path: Prober(how) for path, how in given.items()}


def _arranged(values: Tensor, linear: Linear) -> Tensor:
    if linear.width == 0:
        outputs = linear.weights.shape[1]
        each = values.mT.unsqueeze(1).unsqueeze(-1)
        return each.expand(-1, outputs, -1, -1, -1)
    return by_head(values, linear.weights, linear.width)


def _mixes(driven: Driven, linear: Linear) -> bool:
    """Whether a map has weights besides those of every token for itself."""
    steps, reads = linear.weights.shape[-2:]
    if reads == 1 or steps != reads or not driven.has_own_rows:
        return True
    weights = linear.weights.abs()
    others = weights.masked_fill(torch.eye(steps, dtype=torch.bool, device=weights.device), 0)
    return bool(others.max() > driven.rounding * weights.max())


def _label(driven: Driven, linear: Linear) -> str:
    steps, reads = linear.weights.shape[-2:]
    is_square = steps == reads and driven.has_own_rows
    weights, causal = linear.weights.abs(), ""
    if is_square:  # Fourier transforms leave traces of rounding
        ahead = (weights.triu(1).max() / weights.max()).item()
        what = "causal up to rounding" if ahead <= driven.rounding else "reads later tokens"
        causal = f", {what} ({ahead:.0e})" if ahead != 0 else ", causal"
    affine = "" if not bool(torch.any(linear.rest)) else ", and a constant"
    operations = driven.recording.operations
    others = (operations[number] for number in sorted(driven.ports.kept))
    held = [
        *driven.ports.factors.values(),
        *(f"what '{one.name}' is given in {one.place}" for one in others),
    ]
    if driven.ports.loop is not None:
        held.append("nonlinear factors such as gates")
    given = f", while held: {' and '.join(dict.fromkeys(held))}" if held else ""
    if driven.choices:
        given += f"; {' and '.join(driven.choices)}, as in this run"
    return (
        f"probed from {driven.ports.names[0]} to {driven.ports.names[1]} in "
        f"{driven.passes} passes: linear (superposition error {linear.superposition:.0e}){causal}"
        f"{affine}{given}"
    )
