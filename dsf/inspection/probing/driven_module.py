"""A module as a function of its values, with everything else frozen at its value on one call.

``Repeated`` repeats a captured call with a float64 copy of the module. ``Driven`` is the function
from the values, written in at one port of that call, to the response read at another.
"""

import inspect as signatures
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.capture.double_copies import double_copy
from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import in_double, in_float64
from dsf.inspection.errors import InspectionError
from dsf.inspection.probing.ports import Port, Touch, tapped

Values = Float[Tensor, "sample read width"]
Response = Float[Tensor, "sample time output"]


class Repeated:
    """A call of a module that can be repeated, by a copy of the module in float64."""

    def __init__(self, module: nn.Module, arguments: Mapping[str, Any]):
        self.module = double_copy(module)
        self.arguments = in_float64(dict(arguments))

    def __call__(self) -> Tensor:
        """The module's output; of several the first. Attributes that the call set are restored."""
        args, kwargs = as_called(self.module, self.arguments)
        with isolated(self.module), in_double():
            output = self.module(*args, **kwargs)
        while isinstance(output, tuple | list):
            output = output[0]
        return in_float64(output)


@dataclass(eq=False)
class Driven:
    """The function from values to response between two ports of a call.

    Where several tensors pass a port in one call, their channels are concatenated.

    Attributes:
        call: the call that is repeated.
        value, response: the ports where the values enter and the response leaves.
        passes: the number of forward passes so far.
    """

    call: Repeated
    value: Port
    response: Port
    passes: int = 0

    @property
    def names(self) -> tuple[str, str]:
        """The ports in words."""
        return self.value.where, self.response.where or "the output"

    def original(self) -> tuple[Tensor, Tensor, Tensor]:
        """The values, response and output of the original call.

        Raises:
            InspectionError: if no tensor passes one of the ports.
        """
        values: list[Tensor] = []
        response, output = self._run(
            lambda seen: values.append(in_float64(seen).clone().flatten(2))
        )
        return torch.cat(values, dim=2), response, output

    def __call__(self, values: Values) -> Response:
        """The response to the given values."""
        self.passes += 1
        return self._run(_writing(values))[0]

    def output(self, response: Response) -> Tensor:
        """The module's output when its response is replaced by the given one."""
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
            raise InspectionError(
                f"Port '{missed.where}': no tensor passed it in this call. Name a submodule or "
                "function that the module calls."
            )
        return torch.cat(found, dim=2), output


def as_called(
    module: nn.Module, arguments: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Named arguments as ``forward`` takes them: by position where its signature requires it."""
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
    """A function that writes the channels of ``whole``, in turn, into the tensors it is given."""
    place = 0

    def write(seen: Tensor) -> None:
        nonlocal place
        width = seen.shape[2:].numel()
        seen.copy_(whole[:, :, place : place + width].reshape(seen.shape))
        place += width

    return write


def with_axes(seen: Tensor, port: Port) -> Tensor:
    """``seen``, if it has the axes ``sample time channel`` or ``sample time head channel``.

    Raises:
        InspectionError: if it has another number of axes.
    """
    if seen.ndim not in (3, 4):
        raise InspectionError(
            f"Port '{port.where}': its view must be sample, time, channel, or sample, time, head, "
            f"channel, but it has the shape {tuple(seen.shape)}. Give Port a view=... that has "
            "these axes."
        )
    return seen
