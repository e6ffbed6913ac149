"""Searches an unknown module by names for ports where its values may enter and its response leave.

For modules that cannot be followed operation by operation.
"""

import inspect as signatures
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing.driven_module import Driven, Repeated
from dsf.inspection.probing.ports import Port
from dsf.inspection.probing.unit_values import ROUNDING, mixes, superposition

CALLED_VALUE = re.compile(r"(^|[._])(to_|w_|w|c_|in_)?(v|value|values)(_|$)", re.IGNORECASE)
VALUE_ARGUMENTS = ("value", "values", "v")


@dataclass(frozen=True)
class Passed:
    """One call of a submodule that has no submodules: its name, input and output."""

    name: str
    given: Tensor | None
    argument: str
    output: Any


def as_port(given: str | Port) -> Port:
    """A port by its name, or as it is."""
    return Port(given) if isinstance(given, str) else given


def first_linear(call: Repeated, response: Port | None) -> Driven:
    """The first pair of ports between which a module is linear.

    Args:
        response: the port of the response where that is known.

    Raises:
        UnreadableError: if there is none.
    """
    tried: dict[str, float] = {}
    for value, found in pairs(call):
        driven = Driven(call, value, found if response is None else response)
        try:
            values, _, _ = driven.original()
            if not mixes(driven, values):
                continue
            bent = superposition(driven, values)
        except InspectionError:  # not called, or of another shape
            continue
        if bent <= ROUNDING:
            return Driven(call, value, driven.response)
        tried[" to ".join(driven.names)] = bent
    raise UnreadableError(_unfound(tried))


def _unfound(tried: Mapping[str, float]) -> str:
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


def pairs(call: Repeated) -> Iterator[tuple[Port, Port]]:
    """Candidate pairs of a value port and a response port, the likeliest first.

    Candidates for the values: the output of a submodule whose name means values, or of the
    submodule that is given that output; then an argument named like values of a function in the
    file that defines the class; then the module's input. Candidates for the response, for each of
    the first: the inputs of later submodules, the last one first; then the module's output.
    """
    passed = _leaves(call)
    values: list[Tensor] = []
    for place, leaf in enumerate(passed):
        passed_on = any(leaf.given is one for one in values)
        if (CALLED_VALUE.search(leaf.name) or passed_on) and _tokens(leaf.output):
            value = Port(leaf.name)
            values.append(leaf.output)
            for other in reversed(passed[place + 1 :]):
                if _tokens(other.given) == _tokens(leaf.output):
                    yield value, Port(f"{other.name}({other.argument})")
            yield value, Port()
    for port in _functions(call.module):
        yield port, Port(port.name)
    for name, part in call.arguments.items():
        if isinstance(part, Tensor) and part.is_floating_point() and part.ndim == 3:
            yield Port(f"({name})"), Port()
            return


def _leaves(call: Repeated) -> list[Passed]:
    passed: list[Passed] = []

    def hook_for(name: str, module: nn.Module) -> Any:
        argument = next(iter(signatures.signature(module.forward).parameters), "input")

        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            given = args[0] if args and isinstance(args[0], Tensor) else None
            passed.append(Passed(name, given, argument, output))

        return hook

    with ExitStack() as hooks:
        for name, inner in call.module.named_modules():
            if name and next(inner.children(), None) is None:
                hooks.enter_context(inner.register_forward_hook(hook_for(name, inner)))
        call()
    return passed


def _tokens(part: Any) -> tuple[int, ...]:
    """The sizes of sample and time of a ``sample time width`` tensor; empty for anything else."""
    if isinstance(part, Tensor) and part.ndim == 3 and part.is_floating_point():
        return tuple(part.shape[:2])
    return ()


def _functions(module: nn.Module) -> Iterator[Port]:
    file = sys.modules.get(type(module).__module__)
    for name, function in list(vars(file).items()) if file else ():
        if signatures.isfunction(function) and function.__module__ == type(module).__module__:
            taken = signatures.signature(function).parameters
            yield from (Port(f"{name}({one})") for one in VALUE_ARGUMENTS if one in taken)
