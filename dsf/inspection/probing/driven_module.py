"""A module as a function of its values: everything else as it was in one call."""

import copy
import inspect as signatures
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.capture.calls import in_float64
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import in_double
from dsf.inspection.errors import InspectionError
from dsf.inspection.probing.ports import Port, Touch, tapped

Values = Float[Tensor, "sample read width"]
Response = Float[Tensor, "sample time output"]


class Repeated:
    """A call of a module that can be made again, by a copy of it in float64."""

    def __init__(self, module: nn.Module, arguments: Mapping[str, Any]):
        self.module = copy.deepcopy(module).double()
        self.arguments = {name: in_float64(part) for name, part in arguments.items()}

    def __call__(self) -> Tensor:
        """What the module puts out; the first of several. It keeps nothing of the call."""
        args, kwargs = as_called(self.module, self.arguments)
        with isolated(self.module), in_double():
            output = self.module(*args, **kwargs)
        while isinstance(output, tuple | list):
            output = output[0]
        return in_float64(output)


@dataclass(eq=False)
class Driven:
    """``f(values) = response``, between two ports of a call.

    A port that is passed several times in one call gives its channels one after the other.
    """

    call: Repeated
    value: Port
    response: Port
    passes: int = 0

    def as_it_was(self) -> tuple[Tensor, Tensor, Tensor]:
        """The call's own values, response and output.

        Raises:
            InspectionError: if the call passes no such port.
        """
        values: list[Tensor] = []
        response, output = self._run(
            lambda seen: values.append(in_float64(seen).clone().flatten(2))
        )
        return torch.cat(values, dim=2), response, output

    def __call__(self, values: Values) -> Response:
        """The response to other values."""
        self.passes += 1
        return self._run(_writing(values))[0]

    def output(self, response: Response) -> Tensor:
        """What the module puts out once its response is another."""
        write = _writing(response)
        with tapped(self.call.module, self.response, lambda s: write(with_axes(s, self.response))):
            return self.call()

    def _run(self, touch: Touch) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        passed: list[bool] = []

        def enter(seen: Tensor) -> None:
            passed.append(True)
            touch(with_axes(seen, self.value))

        def leave(seen: Tensor) -> None:
            found.append(with_axes(in_float64(seen).clone(), self.response).flatten(2))

        with (
            tapped(self.call.module, self.value, enter),
            tapped(self.call.module, self.response, leave),
        ):
            output = self.call()
        missed = self.value if not passed else self.response if not found else None
        if missed is not None:
            raise InspectionError(f"Port '{missed.where}': nothing passed it in this call.")
        return torch.cat(found, dim=2), output


def as_called(
    module: nn.Module, arguments: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by name as ``forward`` takes them: by position where it must be."""
    rest, args = dict(arguments), []
    kinds = signatures.signature(module.forward).parameters
    starred = any(kind.kind is kind.VAR_POSITIONAL for kind in kinds.values())
    for name, kind in kinds.items():
        if name not in rest:
            continue
        if kind.kind is kind.VAR_POSITIONAL:
            args += rest.pop(name)
        elif kind.kind is kind.POSITIONAL_ONLY or (
            starred and kind.kind is kind.POSITIONAL_OR_KEYWORD
        ):
            args.append(rest.pop(name))
    return tuple(args), rest


def _writing(whole: Tensor) -> Touch:
    """Writes ``whole``, one call after the other."""
    place = 0

    def write(seen: Tensor) -> None:
        nonlocal place
        width = seen.shape[2:].numel()
        seen.copy_(whole[:, :, place : place + width].reshape(seen.shape))
        place += width

    return write


def with_axes(seen: Tensor, port: Port) -> Tensor:
    if seen.ndim not in (3, 4):
        raise InspectionError(
            f"Port '{port.where}': its view must be sample, time, channel, perhaps with a head "
            f"before the channel, but it has the axes {tuple(seen.shape)}. Give Port a view=..."
        )
    return seen
