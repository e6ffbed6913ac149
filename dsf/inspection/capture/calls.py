"""One call of one module: what it got and gave, recorded by hooks, and read in float64 later."""

import inspect as signatures
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dsf.inspection.capture.integrity import times_written
from dsf.inspection.capture.module_stack import ModuleStack, Surroundings
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.whole.stages import Project


class Through(Enum):
    """How a call was seen."""

    MODULE = "a hook on the module"
    INTERFACE = "the model library's attention interface"
    FUSED = "torch's fused attention"
    FUNCTIONAL = "torch's functional multi-head attention"
    FOLLOWED = "softmax between two products"


@dataclass(eq=False)
class Invocation:
    """One forward pass of one module, kept so that it can be repeated.

    Attributes:
        module: the module that ran.
        args, kwargs: what it was called with, copied.
        weights: where each weight lay when it began, and how often it had been written into.
        calls: the token mixers that ran in it, first to last; the module itself, or attentions.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: list[tuple[int, int]]
    calls: list["Call"] = field(default_factory=list)

    def check_weights(self, name: str) -> None:
        """Raise unless the weights of the module are still those that it ran with.

        Raises:
            ReconstructionError: if they are not.
        """
        if storage_of(self.module) != self.weights:
            raise ReconstructionError(
                f"{name}: the weights of its module were exchanged or written into after it ran, "
                "by a hook or by the model itself, so nothing can be said about the layer of this "
                "run. Inspect the model without what changes its weights."
            )


@dataclass(eq=False)
class Call:
    """One call of one token mixer: bound arguments and output, as the model had them.

    Attributes:
        invocation: the forward pass in which it happened; None where that is not known.
        implementation: under which name the model library calls its attention, where it does.
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
    invocation: Invocation | None = None
    implementation: str = ""

    @property
    def first_output(self) -> Tensor:
        """The output tensor; the first where the module put out several."""
        output = self.output
        while isinstance(output, tuple | list):
            output = output[0]
        return output


def storage_of(module: nn.Module) -> list[tuple[int, int]]:
    """Where every weight lies, and how often it was written into."""
    return [(part.data_ptr(), times_written(part)) for part in module.parameters()]


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


def copied(value: Any) -> Any:
    """A copy of every tensor: what comes after the call may write into the original."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, PackedSequence):
        return value._replace(data=copied(value.data))
    if type(value) in (tuple, list):
        return type(value)(copied(part) for part in value)
    if type(value) is dict:
        return {name: copied(part) for name, part in value.items()}
    return value


def invocation_of(where: ModuleStack, module: nn.Module) -> Invocation | None:
    """The forward pass of ``module`` that is running now, with copies of what it was called with.

    All mixers that run in one forward pass share one.
    """
    frame = where.frame_of(module)
    if frame is None:
        return None
    if frame.invocation is None:
        args, kwargs = copied(frame.args), copied(frame.kwargs)
        frame.invocation = Invocation(module, args, kwargs, storage_of(module))
    return frame.invocation


def add_call(calls: list[Call], call: Call, where: ModuleStack) -> None:
    """Append a mixer that ran inside of the module of ``call``, with the forward pass it ran in."""
    call.invocation = invocation_of(where, call.module)
    config = getattr(call.module, "config", None)
    call.implementation = getattr(config, "_attn_implementation_internal", None) or ""
    if call.invocation is not None:
        call.invocation.calls.append(call)
    calls.append(call)


@contextmanager
def recording(modules: Mapping[str, nn.Module], calls: list[Call]) -> Iterator[None]:
    """Append every call of one of ``modules`` to ``calls`` while the block runs."""
    handles: list[Any] = []
    begun: dict[nn.Module, list[list[tuple[int, int]]]] = {}

    def begin(module: nn.Module, _: Any) -> None:
        begun.setdefault(module, []).append(storage_of(module))

    def hook_for(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> None:
            weights = begun[module].pop()
            invocation = Invocation(module, copied(args), copied(kwargs), weights)
            arguments = bound(module.forward, invocation.args, invocation.kwargs)
            call = Call(name, module, arguments, copied(output), place=len(calls))
            call.invocation = invocation
            invocation.calls.append(call)
            calls.append(call)

        return hook

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_pre_hook(begin))
            handles.append(module.register_forward_hook(hook_for(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class Captured:
    """What an adapter is given.

    Attributes:
        name: where the module sits in the model.
        family: whose equations it follows, as the adapter lists it.
        module: the module itself, for settings that are no tensors (never call it).
        weights: parameters and buffers by name, floating ones in float64.
        arguments: the bound arguments of the call, floating tensors in float64.
        output: what the module put out, in float64.
        surroundings: what an attention's module does around it, where that was recognised.
    """

    name: str
    family: str
    module: Any
    weights: Mapping[str, Tensor]
    arguments: Mapping[str, Any]
    output: Tensor
    surroundings: Surroundings | None = None

    def project(self, name: str, x: Inexact[Tensor, "*axes"]) -> Inexact[Tensor, "*outputs"]:
        """``x`` through the linear map ``name.weight`` and, where there is one, ``name.bias``."""
        return self.projection(name)(x)

    def projection(self, name: str) -> Project:
        """The linear map ``name`` as a stage."""
        return Project(self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def replaced(self, **changes: Any) -> "Captured":
        """A copy with some parts exchanged."""
        return replace(self, **changes)


def in_float64(value: Any) -> Any:
    """Floating tensors in float64, detached; everything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to(torch.float64) if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return value._replace(data=in_float64(value.data))
    if isinstance(value, tuple | list):
        return (
            type(value)(in_float64(part) for part in value)
            if type(value) in (tuple, list)
            else value
        )
    return value


class Weights(Mapping[str, Tensor]):
    """Parameters and buffers of a module by name, floating ones in float64 when they are looked at.

    They are not copied, unless asked for: a model need not fit into memory twice. One that was
    written into since is no longer that of the run and is refused.
    """

    def __init__(self, module: nn.Module, *, copied: bool = False):
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._parts = {name: part.clone() if copied else part for name, part in named.items()}
        self._versions = {name: times_written(part) for name, part in self._parts.items()}

    def __getitem__(self, name: str) -> Tensor:
        part = self._parts[name]
        if times_written(part) != self._versions[name]:
            raise InspectionError(
                f"the weight '{name}' was written into since the model was inspected: inspect it "
                "again."
            )
        return in_float64(part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
