"""The function from values to response between two places of a recorded call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.causal.coordinates import InputAxis
from dsf.inspection.errors import UnreadableError
from dsf.inspection.probing.layouts import Arranged, Layout
from dsf.inspection.probing.tape import Exchanging, Record, Spot, Tape, Use
from dsf.inspection.probing.unit_values import random_values

Exchange = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ports:
    """Where the values of a module enter and where its response leaves.

    Attributes:
        value: the tensor that holds the values.
        kept: places that are given the original values all the same.
        response: the place where the response is read.
        names: the two in words.
        layout: that of the response where only exchanged tokens showed it.
    """

    value: Spot
    kept: frozenset[Use]
    response: Use
    names: tuple[str, str] = ("", "")
    layout: Layout | None = None


class DrivenTape:
    """The function from values to response between two places of a call.

    Attributes:
        ports: the places.
        tape: the call.
    """

    def __init__(self, tape: Tape, record: Record, ports: Ports):
        value = record.layout_of(ports.value)
        response = ports.layout or record.place_of(ports.response)
        if value is None or response is None:
            raise UnreadableError("its values or its response have no tokens")
        self.tape, self.ports = tape, ports
        self._value, self._response = value, response
        self._before = tape.passes

    @property
    def passes(self) -> int:
        """The number of forward passes that measured the map."""
        return self.tape.passes - self._before

    def original(self) -> tuple[Tensor, Tensor, Tensor]:
        """The values, response and output of the original call."""
        seen: list[Tensor] = []

        def look(tensor: Tensor) -> Tensor:
            seen.append(self._value.arranged(tensor))
            return tensor

        response, output = self._run(look)
        return seen[0], response, output

    def __call__(self, values: Arranged) -> Float[Tensor, "sample written output"]:
        """The response to the given values."""
        return self._run(lambda old: self._value.laid_out(values, old))[0]

    def output(self, response: Arranged) -> Tensor:
        """The module's output when its response is replaced by the given one."""
        reader = {self.ports.response: lambda old: self._response.laid_out(response, old)}
        return self.tape.run(Exchanging(readers=reader))

    def watching(
        self,
        seen: list[Tensor],
        *,
        zero: bool = False,
        held: Exchange | None = None,
        values: list[Tensor] | None = None,
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Tensor]:
        """A function that calls the module and adds its response to ``seen``.

        Args:
            zero: whether the values are zero.
            held: what takes the place of the response, made from it.
            values: a list to which the values are added.
        """

        def read(old: Tensor) -> Tensor | None:
            now = self._response.arranged(old)
            seen.append(now.clone())
            return None if held is None else self._response.laid_out(held(now), old)

        def exchange(old: Tensor) -> Tensor:
            now = self._value.arranged(old)
            if values is not None:
                values.append(now.clone())
            return self._value.laid_out(torch.zeros_like(now), old) if zero else old

        def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            kept = self.ports.kept if zero else frozenset[Use]()
            mode = Exchanging(self.ports.value, exchange, kept, {self.ports.response: read})
            return mode.through(module, args, kwargs)

        return call

    @property
    def names(self) -> tuple[str, str]:
        """The places in words."""
        return self.ports.names

    @property
    def has_own_rows(self) -> bool:
        """Whether row i of the map is the token of column i."""
        return self._value.fits(self._response)

    @property
    def has_slots(self) -> bool:
        """Whether the values are of slots, which weights made of many tokens each."""
        return all(axis.source.kind == "slots" for axis in self._value.token_axes)

    def unmixed(self, rounding: float) -> list[InputAxis]:
        """The last axes of inputs, if they count as tokens and nothing is mixed along them.

        Products of queries and keys sum over such an axis, and no projection told that it holds
        channels.
        """
        value, axes = self._value, self._value.token_axes
        if not self.has_own_rows or len(axes) < 2:
            return []
        values, plain, _ = self.original()
        found = []
        for place, axis in enumerate(axes):
            beside = (one for one in (*axes, *value.sample_axes) if one.source is axis.source)
            is_last = axis.number == max(one.number for one in beside)
            if not is_last or axis.source.kind != "input" or axis.source.channels is not None:
                continue
            first = torch.tensor([at[place] == 0 for at in value.tokens])
            alone = values.clone()
            alone[:, first] += random_values(values, seed=0)[:, first]
            change = (self(alone) - plain)[:, ~first].abs().max()
            if bool(change <= rounding * plain.abs().max()):
                found.append(axis)
        return found

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Samples, tokens and channels of the values."""
        return self._value.sizes

    def own(self, cells: Sequence[Mapping[InputAxis, int | Tensor]]) -> Tensor:
        """Which tokens of the response, ``sample time``, belong to one of some cells."""
        return self._response.own(cells)

    def own_values(self, cells: Sequence[Mapping[InputAxis, int | Tensor]]) -> Tensor:
        """Which tokens of the values, ``sample time``, belong to one of some cells."""
        return self._value.own(cells)

    def _run(self, new: Exchange) -> tuple[Arranged, Tensor]:
        found: list[Tensor] = []

        def read(tensor: Tensor) -> None:
            found.append(self._response.arranged(tensor.clone()))

        readers = {self.ports.response: read}
        output = self.tape.run(Exchanging(self.ports.value, new, self.ports.kept, readers))
        if not found:
            raise UnreadableError("the code of the module takes another path with other values")
        return found[0], output
