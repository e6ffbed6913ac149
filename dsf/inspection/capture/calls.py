"""Calls of modules: recorded by hooks during the run, and read in float64 afterwards.

``Call`` has bound arguments and output as the model had them, ``Captured`` is what an adapter gets
to read: the same in float64, with ``Weights`` that convert a parameter when it is looked up.
"""

import inspect as signatures
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, partial
from operator import is_
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack

from dsf.inspection.capture.containers import (
    Computed,
    Copies,
    copied_once,
    mapped,
    tensors_in,
    times_written,
    with_each,
)
from dsf.inspection.capture.modes import unheard
from dsf.inspection.capture.module_stack import (
    Frame,
    History,
    ModuleStack,
    Surroundings,
    attributes_of,
)
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.capture.weights import (
    is_within,
    made_weight,
    made_weights,
    packed_modules,
    unpacked,
)
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError
from dsf.inspection.whole.stages import Project

Exchange = Callable[["Call"], Tensor | None]
"""Function from a recorded call to the output that replaces its own; None keeps it."""


Ran = Mapping[str, tuple[Tensor, Tensor]]
"""By the path of a projection what it was given and what it returned."""


class Through(Enum):
    """By which way a call was recorded."""

    MODULE = "a hook on the module"
    INTERFACE = "the model library's attention interface"
    FUSED = "torch's fused attention"
    FOLLOWED = "softmax between two products"


@dataclass(eq=False)
class Invocation:
    """One forward pass of one module, kept so that it can be repeated.

    Attributes:
        weights: where each weight lay when it began, and how often it had been written into.
        given: from which tokens the tensors among ``args`` and ``kwargs`` are made, in order.
        attributes: the tensors that it left in attributes of its module, by name, copied.
        written: what it wrote into tensors that it was given, by their place among these, copied.
        made: from which tokens the tensors are made that it returned, left, and wrote, in order.
        prepared: what hooks made of ``args`` and ``kwargs`` before ``forward`` was given them; None
            where they left these as they were.
        is_spoiled: whether the module or a hook had written into them when they were copied, so
            that it cannot be repeated.
        history: what modules had in attributes and buffers when it began.
        starts_anew: whether it is as it was where all that the run changed in place is as before;
            None where that was not tried.
        refuses: whether it could only be repeated with numbers of other tokens in place of some.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    weights: list[tuple[int, int]]
    calls: list["Call"] = field(default_factory=list)
    began: int = 0
    ended: int = 0
    given: list[Any] = field(default_factory=list)
    output: Any = None
    attributes: dict[str, Tensor] = field(default_factory=dict)
    written: dict[int, Tensor] = field(default_factory=dict)
    made: list[Any] = field(default_factory=list)
    prepared: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    is_spoiled: bool = False
    refuses: bool = False
    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    history: History | None = None
    starts_anew: bool | None = None

    def as_it_began(self) -> AbstractContextManager[None]:
        """Inside, its module is as it was when the forward pass began, where a run is over."""
        if self.history is None:
            return nullcontext()
        return self.history.set_back(self.module, self.began, anew=bool(self.starts_anew))

    def finish(self, output: Any, where: ModuleStack, frame: Frame | None = None) -> None:
        self.ended = where.tick()
        self.output = copied(output, where.copies)
        self.weights = self.weights or storage_of(self.module)
        if where.tracker is None:
            return
        attributes: dict[str, Tensor] = {}
        written: dict[int, Tensor] = {}
        if frame is not None:
            written, known = frame.written_into(), frame.attributes
            attributes = {
                name: part
                for name, (part, writes) in attributes_of(self.module).items()
                if name not in known or known[name][0] is not part or known[name][1] != writes
            }
        put_out = {id(part) for part in tensors_in(output)}
        attributes = {name: one for name, one in attributes.items() if id(one) not in put_out}
        written = {k: one for k, one in written.items() if id(one) not in put_out}
        everything = (*tensors_in(output), *attributes.values(), *written.values())
        self.made = [where.tracker.of(part) for part in everything]
        self.attributes, self.written = copied(attributes), copied(written)

    @property
    def outputs(self) -> list[Tensor]:
        return [*tensors_in(self.output), *self.attributes.values(), *self.written.values()]

    def check_weights(self, name: str) -> None:
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
        seen: from which tokens its queries, values and output are made, where that was followed.
        made_of: by the name of an argument from which tokens the tensors in it are made, in order.
        further: from which tokens its further outputs are made, in order.
        explained: how many of the tensors that it returns its map explains.
        besides: why its map is not all that its module does to tokens, where that is known at once.
        tokens: the token of every step and sample, where a run was followed.
        maps: which of its maps belongs to which sample and head, where the run showed that it is
            not the usual order.
        product: which of the products of its module's forward pass made the response, from 1, and
            negative if its factors are turned; 0 where none of them did.
        refused: why the calls of its module are not sequences, where joining them showed that.
        around: where an attention ran again in float64, what its whole module returned then.
        ran: where its module ran again in float64, what its projections were given and returned.
        counted: if it was probed, or is a cell, the axes of its tokens, and those of its samples.
    """

    name: str
    module: nn.Module
    arguments: dict[str, Any]
    output: Any
    through: Through = Through.MODULE
    surroundings: Surroundings | None = None
    invocation: Invocation | None = None
    time: int = 0
    seen: dict[str, Any] = field(default_factory=dict)
    made_of: dict[str, list[Any]] = field(default_factory=dict)
    further: list[Any] = field(default_factory=list)
    explained: int = 1
    besides: str = ""
    tokens: Tensor | None = None
    maps: Any = None
    weights_by: nn.Module | None = None
    product: int = 0
    refused: str = ""
    draws: bool = False
    around: Tensor | None = None
    ran: Ran = field(default_factory=dict)
    counted: tuple[set[Any], set[Any]] | None = None

    @property
    def first_output(self) -> Tensor:
        return call_output(self.output)


def let_go(calls: Iterable[Call]) -> None:
    """Break the cycles between calls and their forward passes when the run is not needed."""
    # They refer to each other, so their tensors would stay in memory until cycles are collected.
    for call in calls:
        if call.invocation is not None:
            call.invocation.calls.clear()
            call.invocation = None


def time_axis(module: nn.Module, ndim: int) -> int:
    """The axis of time in what a module is given with so many axes: behind that of samples."""
    return 1 if ndim > 2 and getattr(module, "batch_first", True) else 0


def call_output(output: Any) -> Tensor:
    """The output tensor of a module; the first of several."""
    found = tensors_in(output)
    if not found:
        raise UnreadableError("it returns no tensor")
    return found[0]


def first_numbers(value: Any) -> Tensor | None:
    """The first of the tensors in a value that holds no whole numbers; None if there is none."""
    return next((one for one in tensors_in(value) if one.is_floating_point()), None)


def storage_of(module: nn.Module) -> list[tuple[int, int]]:
    """Where every weight lies, and how often it was written into; empty where that is not known."""
    if peek_interpreter_stack() is not None:  # a vectorising transform has weights of its own
        return []
    # Packed weights are left out: some modules pack them anew when they run.
    packed = packed_modules(module).values()
    inside = {id(weight) for part in packed for weight in part.parameters()}
    weights = [part for part in module.parameters() if id(part) not in inside]
    return [(part.data_ptr(), times_written(part)) for part in weights]


def bound(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by the names in the signature of ``function``; ``**kwargs`` by their own."""
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


def given_to(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a forward pass by the names that the class of the module gives them."""
    # A plain function in the place of forward, as wrappers put there, may name them otherwise.
    if "forward" in vars(module):
        with suppress(TypeError):  # it is called in another way than those of its class
            named = bound(type(module).forward, (module, *args), kwargs)
            return dict(list(named.items())[1:])
    return bound(module.forward, args, kwargs)


def copied(value: Any, known: Copies | None = None) -> Any:
    """``value`` with every tensor copied once, since later code may write into the original."""
    # What all layers are given, such as a mask, has its copy among those that are known.
    with unheard():
        return mapped(value, partial(copied_once, known=Copies() if known is None else known))


def begun(frame: Frame, where: ModuleStack) -> Invocation:
    """The forward pass of a frame, with copies of what its module was called with."""
    if frame.invocation is None:
        module = frame.module
        args, kwargs = copied(frame.args, where.copies), copied(frame.kwargs, where.copies)
        made = Invocation(module, args, kwargs, storage_of(module), began=frame.began)
        made.autocast, made.history = frame.autocast, where.history
        made.is_spoiled = frame.is_spoiled
        made.given = list(map(where.of, tensors_in((frame.args, frame.kwargs))))
        where.invocations.append(made)
        frame.invocation = made
    return frame.invocation


def add_call(
    calls: list[Call],
    call: Call,
    where: ModuleStack,
    output: Any,
    seen: Mapping[str, Any],
    time: int = -2,
) -> Any:
    """Append a mixer that ran inside of the module of ``call``; return what it is to return.

    Args:
        time: the dimension of what it made that its queries lie along.
    """
    if where.tracker is not None:
        where.tracker.attended(seen["output"], time)
    call.seen = {name: where.of(part) for name, part in seen.items()}
    frame = where.frame_of(call.module) if where.keeps_passes else None
    call.invocation = None if frame is None else begun(frame, where)  # one for all mixers in it
    call.time = where.last_call = where.tick()
    if call.invocation is not None:
        call.invocation.calls.append(call)
    calls.append(call)
    return exchanged(call, output, where.exchange)


def exchanged(call: Call, output: Any, exchange: Exchange | None) -> Any:
    """``output``, where its tensor, or the first of several, is what ``exchange`` says."""
    new = None if exchange is None else exchange(call)
    if new is None:
        return output
    first = call_output(output)
    fitting = new.to(first).reshape(first.shape)
    made = with_each(output, lambda part: fitting if part is first else part)
    if call_output(made) is not fitting:
        raise InspectionError(f"{call.name}: what it returns cannot be copied with another tensor.")
    return made


@contextmanager
def recording(
    modules: Mapping[str, nn.Module], calls: list[Call], where: ModuleStack
) -> Iterator[None]:
    """Append every call of one of ``modules`` to ``calls`` inside the ``with`` block."""
    begun: dict[nn.Module, list[tuple[Invocation, list[Tensor], list[int]]]] = {}

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own_args, own_kwargs = copied((args, kwargs))
        invocation, given = Invocation(module, own_args, own_kwargs, []), tensors_in((args, kwargs))
        begun.setdefault(module, []).append((invocation, given, list(map(times_written, given))))

    def prepare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        invocation, given, writes = begun[module][-1]
        invocation.weights = storage_of(module)
        now = tensors_in((args, kwargs))
        same = len(now) == len(given) and all(map(is_, now, given))
        if not same or writes != list(map(times_written, now)):  # hooks exchanged or changed them
            invocation.prepared = copied((args, kwargs))
        where.begin_whole(module)

    def finish(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        invocation, given, writes = begun[module].pop()
        now = enumerate(map(times_written, given))
        invocation.written = copied({k: given[k] for k, count in now if count != writes[k]})
        originals = given_to(module, args, kwargs)
        invocation.given = list(map(where.of, given))
        arguments = given_to(module, *(invocation.prepared or (invocation.args, invocation.kwargs)))
        call = Call(name, module, arguments, copied(output), time=where.tick())
        call.invocation = invocation
        made = where.made_of(output)
        call.seen, call.further = {"output": made[0] if made else None}, made[1:]
        call.made_of = {name: where.made_of(part) for name, part in originals.items()}
        invocation.calls.append(call)
        calls.append(call)
        return exchanged(call, output, where.exchange)

    with ExitStack() as hooks:
        for name, module in modules.items():
            ahead, behind = module.register_forward_pre_hook, module.register_forward_hook
            hooks.enter_context(ahead(begin, prepend=True, with_kwargs=True))
            hooks.enter_context(ahead(prepare, with_kwargs=True))
            hooks.enter_context(behind(partial(finish, name), with_kwargs=True))
        yield


@dataclass(frozen=True, eq=False)
class Captured:
    """What an adapter is given.

    Attributes:
        name: the path of the module in the model.
        family: the name that the adapter gives to the module's class.
        module: the module itself, to look up settings that are not tensors. Never call it.
        weights: parameters and buffers by name, floating-point ones in float64.
        arguments: the arguments of the call by name, floating-point tensors in float64.
        output: the module's output, in float64.
        surroundings: what the module of an attention computes before and after it, where that was
            recognised.
        maps: which map of an attention belongs to which sample and head, as the run showed it;
            None where nothing was seen.
        made_of: by the name of an argument from which tokens the tensors in it are made, in order.
        ran: what projections were given and returned, where the module ran in float64.
    """

    name: str
    family: str
    module: Any
    weights: Mapping[str, Tensor]
    arguments: Mapping[str, Any]
    output: Tensor
    surroundings: Surroundings | None = None
    maps: Any = None
    made_of: Mapping[str, list[Any]] = field(default_factory=dict)
    ran: Ran = field(default_factory=dict)

    def project(self, name: str, x: Inexact[Tensor, "*axes"]) -> Inexact[Tensor, "*outputs"]:
        """``x`` projected by ``name.weight`` and, where there is one, ``name.bias``."""
        return self.projection(name)(x)

    def projection(self, name: str) -> Project:
        """The projection ``name`` as a stage."""
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        return Project(weight, bias, self.ran.get(name))


class Weights(Computed):
    """Parameters and buffers of a module by name, converted to float64 when they are looked up.

    They are not copied unless ``copied`` is set, so that a model need not fit into memory twice.
    Looking up a weight that was changed in place since the run raises an ``InspectionError``.
    Packed weights of linear maps are written out as ``weight`` and ``bias``; weights that the
    module makes of others when it runs are made in float64.
    """

    def __init__(self, module: nn.Module, *, copied: bool = False):
        packed = packed_modules(module)
        makers: dict[str, Callable[[], Tensor]] = {}
        for name, part in (*module.named_parameters(), *module.named_buffers()):
            if not any(is_within(path, name) for path in packed):
                own = part.clone() if copied else part
                makers[name] = partial(_unwritten, name, own, times_written(own))
        for name, made in made_weights(module).items():
            makers[name] = partial(made_weight, *made)
        for path, linear in packed.items():
            written_out = cache(partial(unpacked, linear, path))
            has_bias = getattr(linear, "bias", linear) is not None
            for kind in ("weight", "bias") if has_bias else ("weight",):
                name = f"{path}.{kind}" if path else kind
                makers[name] = partial(_part_of, written_out, kind)
        super().__init__(makers)
        self._module = module

    def __getitem__(self, name: str) -> Tensor:
        if name in self._makers:
            return in_float64(super().__getitem__(name))
        path, _, kind = name.rpartition(".")  # such as the weight of a pruned module, no parameter
        owner = dict(self._module.named_modules(remove_duplicate=False)).get(path)
        found = None if owner is None else vars(owner).get(kind)
        if not isinstance(found, Tensor):
            raise KeyError(name)
        return in_float64(found)


def _part_of(made: Callable[[], nn.Module], kind: str) -> Tensor:
    part: Tensor = getattr(made(), kind)
    return part


def _unwritten(name: str, part: Tensor, writes: int) -> Tensor:
    if times_written(part) != writes:
        raise InspectionError(
            f"the weight '{name}' was written into after the model was inspected, so it is no "
            "longer that of the run. Inspect the model again."
        )
    return part
