"""Recording what modules are called with."""

import inspect as signatures
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dsf.inspection.surroundings import Surroundings


class Through(Enum):
    """How a call was seen."""

    MODULE = "a hook on the module"
    INTERFACE = "the model library's attention interface"
    FUSED = "torch's fused attention"
    FUNCTIONAL = "torch's functional multi-head attention"
    FOLLOWED = "softmax between two products"


@dataclass(eq=False)
class Call:
    """One call of one module: bound arguments and output, as the model had them.

    Attributes:
        place: a number that grows with every call of a run.
        through: how the call was seen.
        surroundings: what an attention's module does around it, where that was recognised.
    """

    name: str
    module: nn.Module
    arguments: dict[str, Any]
    output: Any
    place: int
    through: Through = Through.MODULE
    surroundings: Surroundings | None = None

    @property
    def first_output(self) -> Tensor:
        """The output tensor; the first where the module put out several."""
        output = self.output
        while isinstance(output, tuple | list):
            output = output[0]
        return output


def bound(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by the names of ``function``'s signature, trailing keywords flattened."""
    signature = signatures.signature(function)
    named = signature.bind_partial(*args, **kwargs)
    found: dict[str, Any] = {}
    for name, value in named.arguments.items():
        kind = signature.parameters[name].kind
        if kind is signatures.Parameter.VAR_KEYWORD:
            found.update(value)
        else:
            found[name] = value
    return found


def kept(value: Any) -> Any:
    """A copy of every tensor: what comes after the call may write into the original."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, PackedSequence):
        return value._replace(data=kept(value.data))
    if type(value) in (tuple, list):
        return type(value)(kept(part) for part in value)
    return value


@contextmanager
def recording(modules: Mapping[str, nn.Module], calls: list[Call]) -> Iterator[None]:
    """Append every call of one of ``modules`` to ``calls`` while the block runs."""
    handles = []

    def hook_for(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            given = bound(module.forward, args, kwargs)
            arguments = {key: kept(part) for key, part in given.items()}
            calls.append(Call(name, module, arguments, kept(output), place=len(calls)))

        return hook

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook_for(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
