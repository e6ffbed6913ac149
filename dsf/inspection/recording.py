"""One call of a module as a program: its ATen operations on memory of one time.

A ``Value`` is a tensor at one time: a view of one version of some memory. An operation that writes
in place makes a new version, so that the program is functional: views are not operations.
``Recording.replay`` computes values with other numbers in the place of some, and runs nothing but
the operations between. Numbers that leave torch (``item``, ``tolist``, NumPy) are noted: what the
program made of them, and what it wrote into tensors past torch, is not known to a replay, nor what
another thread computed, or code that torch does not hear: see ``Recording.is_all``.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property, partial, wraps
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._decomp import get_decompositions
from torch.utils._pytree import tree_flatten, tree_map_only

from dsf.inspection.capture.containers import memory_of, tensors_in
from dsf.inspection.capture.isolation import isolated, replaced
from dsf.inspection.capture.modes import Functions, Operations, unheard
from dsf.inspection.capture.precision import in_double
from dsf.inspection.errors import UnreadableError

MAX_OPERATIONS = 200_000
"""A module that runs more ATen operations than this in one call is not recorded."""
Memory = UntypedStorage | Tensor
"""Where numbers lie; a tensor without memory of its own, such as a sparse one, is its own."""


@dataclass(frozen=True)
class Value:
    """A tensor at one time.

    Attributes:
        memory: the number of the version of the memory that it is a view of.
    """

    memory: int
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...] = ()
    offset: int = 0
    is_conjugated: bool = False
    is_negated: bool = False

    def within(self, memory: Memory) -> Tensor:
        """The tensor, where a version of its memory lies."""
        if isinstance(memory, Tensor):
            return memory
        empty = torch.empty(0, dtype=self.dtype, device=memory.device)
        found = empty.set_(memory, self.offset, self.shape, self.stride)
        found = torch._conj(found) if self.is_conjugated else found
        return torch._neg_view(found) if self.is_negated else found

    @property
    def is_spread(self) -> bool:
        """Whether several of its elements are one number in memory, as in what was expanded."""
        return any(a == 0 < b - 1 for a, b in zip(self.stride, self.shape, strict=False))

    @cached_property
    def region(self) -> tuple[Any, ...]:
        """The same for views of the same elements, whatever the order of their axes."""
        pairs = zip(self.stride, self.shape, strict=False)
        axes: list[tuple[int, int]] = []
        for stride, size in sorted(((a, b) for a, b in pairs if b > 1), reverse=True):
            if axes and axes[-1][0] == stride * size:
                axes[-1] = stride, axes[-1][1] * size
            else:
                axes.append((stride, size))
        return self.memory, self.dtype, self.offset, tuple(axes)

    def overlaps(self, other: "Value") -> bool:
        if self.memory != other.memory:
            return False
        if self.dtype != other.dtype or not self.stride or not other.stride:
            return True
        ends = [
            one.offset + sum((n - 1) * s for n, s in zip(one.shape, one.stride, strict=True)) + 1
            for one in (self, other)
        ]
        mine = torch.zeros(max(ends), dtype=torch.bool)
        mine.as_strided(self.shape, self.stride, self.offset).fill_(True)
        return bool(mine.as_strided(other.shape, other.stride, other.offset).any())


@dataclass(frozen=True, eq=False)
class Operation:
    """One ATen operation of the call.

    Attributes:
        func: the operation; None for numbers that leave torch.
        writes: by the version of memory that it writes into the version that it leaves.
        makes: the versions of memory that it makes, these among them.
        place: ``file:line`` of the code that called it.
        random: the state of the generator before it, if it draws.
    """

    func: Any
    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    reads: tuple[Value, ...]
    outs: tuple[Value, ...]
    writes: Mapping[int, int]
    makes: tuple[int, ...]
    place: str
    path: str
    random: Tensor | None


@dataclass(frozen=True, eq=False)
class Exchanged:
    """A value in the place of which other numbers are put.

    Attributes:
        kept: operations that are still given the numbers from before.
    """

    value: Value
    new: Callable[[Tensor], Tensor]
    kept: frozenset[int] = frozenset()


@dataclass(eq=False)
class Passed:
    """One call of a submodule or function: its arguments and output, values for tensors."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    began: int
    ended: int = 0
    output: Any = None


def values_in(part: Any) -> list[Value]:
    return [leaf for leaf in tree_flatten(part)[0] if isinstance(leaf, Value)]


@dataclass(eq=False)
class Recording:
    """The program of one call.

    Attributes:
        own: the memories of weights, and of tensors in attributes of modules.
        left: those of ``given``, as they were afterwards.
        attributes: the tensors in attributes of the module afterwards.
        seen: what was known of a tensor when it was first seen, by its value.
        is_double: whether float64 was the default type, which code that is one operation asks for.
    """

    operations: list[Operation] = field(default_factory=list)
    given: list[Value] = field(default_factory=list)
    own: set[int] = field(default_factory=set)
    output: Any = None
    left: list[Value] = field(default_factory=list)
    attributes: dict[str, Value] = field(default_factory=dict)
    calls: list[Passed] = field(default_factory=list)
    seen: dict[Value, Any] = field(default_factory=dict)
    is_double: bool = False
    replays: int = 0
    numbers: dict[int, Memory] = field(default_factory=dict)
    made_at: dict[int, int] = field(default_factory=dict)
    _needed: dict[frozenset[int], list[int]] = field(default_factory=dict)
    _held: dict[Value, Tensor] = field(default_factory=dict)

    @property
    def first_output(self) -> Value:
        found = values_in(self.output)
        if not found:
            raise UnreadableError("it returns no tensor")
        return found[0]

    def tensor(self, value: Value) -> Tensor:
        return value.within(self.numbers[value.memory]).clone()

    def readers(self, value: Value) -> list[int]:
        overlap = cache(value.overlaps)
        return [
            number
            for number, operation in enumerate(self.operations)
            if operation.makes and any(map(overlap, operation.reads))
        ]

    def made_of(self, values: Iterable[Value]) -> set[int]:
        """The versions of memory that some values and what is computed of them lie in."""
        found = {value.memory for value in values}
        for operation in self.operations:
            if any(read.memory in found for read in operation.reads):
                found.update(operation.makes)
        return found

    def making(self, value: Value) -> set[int]:
        """The versions of memory that a value is made of, with its own."""
        needed = self.needed_for(frozenset((value.memory,)))
        read = {read.memory for number in needed for read in self.operations[number].reads}
        return {value.memory, *read}

    @cached_property
    def is_all(self) -> bool:
        """Whether nothing that the call computed hangs on numbers that a replay does not compute.

        Those that leave torch, those of tensors that were neither given nor made in the call, and
        what operations of others may keep between them.
        """
        made = self.made_of(self.given)
        known = {*self.made_at, *self.own, *(value.memory for value in self.given)}
        for operation in self.operations:
            if operation.name == "lift_fresh":  # what the code writes as numbers
                known.update(read.memory for read in operation.reads)
            if getattr(operation.func, "namespace", "aten") != "aten":
                return False
            leaves = not operation.outs and not operation.writes
            if leaves and any(read.memory in made for read in operation.reads):
                return False
            if any(read.memory not in known for read in operation.reads):
                return False
            if any(isinstance(part, UntypedStorage) for part in operation.args):  # as of a copy
                return False
        return True

    def replay(
        self, exchanged: Iterable[Exchanged], wanted: Iterable[Value]
    ) -> dict[Value, Tensor]:
        """The numbers of values where others are exchanged."""
        self.replays += 1
        wanted = list(wanted)
        waiting: dict[int, list[Exchanged]] = {}
        for one in exchanged:
            waiting.setdefault(one.value.memory, []).append(one)
        now: dict[int, Memory] = {}
        before: dict[int, tuple[frozenset[int], Memory]] = {}

        def exchange(memory: int) -> None:
            for one in waiting.get(memory, ()):
                old = now.get(memory, self.numbers[memory])
                if one.kept:
                    before[memory] = one.kept, old
                now[memory] = old.clone()
                there = one.value.within(now[memory])
                sizes = zip(there.shape, there.stride(), strict=True)
                if any(size > 1 and not step for size, step in sizes):
                    raise UnreadableError("its code repeats numbers in one place of memory")
                there.copy_(one.new(there.clone()))

        with torch.no_grad(), in_double() if self.is_double else nullcontext(), unheard():
            for memory in waiting:
                if memory not in self.made_at:
                    exchange(memory)
            for number in self.needed_for(frozenset(value.memory for value in wanted)):
                operation = self.operations[number]
                old_ones = {at: old for at, (users, old) in before.items() if number in users}
                there = {**now, **old_ones} if old_ones else now
                if any(read.memory in there for read in operation.reads):
                    now |= self.run(operation, there)
                for memory in operation.makes:
                    exchange(memory)
            memories = ((v, now.get(v.memory, self.numbers[v.memory])) for v in wanted)
            return {value: value.within(memory).clone() for value, memory in memories}

    def held(self, values: Iterable[Value], exchanged: Sequence[Exchanged] = ()) -> list[Exchanged]:
        """What keeps values at their numbers, which are other ones where others are exchanged."""
        values = list(values)
        if exchanged and values:
            numbers = self.replay(exchanged, values)
        else:
            numbers = {value: self.tensor(value) for value in values}
        return [instead(value, now) for value, now in numbers.items()]

    def work(self, exchanged: Iterable[Value], wanted: Iterable[Value]) -> tuple[int, int]:
        """How many operations a replay runs, and how many numbers these read."""
        made = self.made_of(exchanged)
        needed = self.needed_for(frozenset(value.memory for value in wanted))
        reads = (self.operations[number].reads for number in needed)
        run = [each for each in reads if any(read.memory in made for read in each)]
        return len(run), sum(read.shape.numel() for each in run for read in each)

    def needed_for(self, memories: frozenset[int]) -> list[int]:
        """The operations that some versions of memory are made by, in running order."""
        if memories not in self._needed:
            needed, found = set(memories), []
            for number in range(len(self.operations) - 1, -1, -1):
                operation = self.operations[number]
                if not needed.isdisjoint(operation.makes):
                    found.append(number)
                    needed.update(read.memory for read in operation.reads)
            self._needed[memories] = found[::-1]
        return self._needed[memories]

    def run(self, operation: Operation, now: Mapping[int, Memory]) -> dict[int, Memory]:
        """The versions of memory that an operation makes of others."""

        own = {at: now.get(at, self.numbers[at]).clone() for at in operation.writes}

        def argument(part: Any) -> Any:
            if not isinstance(part, Value):
                return type(part)(map(argument, part)) if type(part) in (list, tuple) else part
            memory = own.get(part.memory, now.get(part.memory))
            if memory is not None:
                return part.within(memory)
            if part not in self._held:
                self._held[part] = part.within(self.numbers[part.memory])
            return self._held[part]

        args = map(argument, operation.args)
        kwargs = {name: argument(part) for name, part in operation.kwargs.items()}
        with ExitStack() as drawing:
            if operation.random is not None:
                drawing.enter_context(torch.random.fork_rng(devices=[]))
                torch.set_rng_state(operation.random)
            out = operation.func(*args, **kwargs)
        made = {operation.writes[number]: storage for number, storage in own.items()}
        for value, tensor in zip(operation.outs, _tensors(out), strict=True):
            if value.memory in operation.makes and value.memory not in made:
                made[value.memory] = _as_recorded(value, tensor)
        return made


def _as_recorded(value: Value, tensor: Tensor) -> Memory:
    """The memory of a tensor that an operation returns, laid out as it was."""
    if tensor.shape != value.shape:
        raise UnreadableError("its code returns tensors of another shape for other numbers")
    if not value.stride and value.shape:
        return tensor
    if (tensor.stride(), tensor.storage_offset()) == (value.stride, value.offset):
        return tensor.untyped_storage()
    last = sum((n - 1) * s for n, s in zip(value.shape, value.stride, strict=True))
    size = (value.offset + last + 1) * tensor.element_size()
    memory = UntypedStorage(size, device=tensor.device)
    value.within(memory).copy_(tensor)
    return memory


def _tensors(part: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(part)[0] if isinstance(leaf, Tensor)]


HANDED_OVER = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__}
HANDED_OVER |= {Tensor.data_ptr, Tensor.untyped_storage}
"""What gives the numbers of a tensor to code that torch does not see."""


class Leaving(Functions):
    """Tells of numbers that are handed over, which is not an operation; of calls before that."""

    def __init__(
        self, note: Callable[[Tensor], None], ahead: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self._note, self._ahead = note, ahead

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._ahead()
        if func in HANDED_OVER:
            self._note(args[0])
        return func(*args, **kwargs)


BATCH_NORM = torch.ops.aten.native_batch_norm.default
NORMS = get_decompositions(
    [
        torch.ops.aten.native_group_norm.default,
        torch.ops.aten.native_layer_norm.default,
        torch.ops.aten._fused_rms_norm.default,
        BATCH_NORM,
    ]
)
"""Fused norms as several operations, which are recorded: a deviation is a value of its own.

Of batch norms those over the numbers that they are given, as in an instance norm.
"""


def instead(value: Value, numbers: Tensor) -> Exchanged:
    """What puts numbers in the place of a tensor."""
    return Exchanged(value, lambda _: numbers)


def _copies(*parts: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.clone() for part in parts)


MADE_EMPTY = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
}


class Recorder(Operations):
    """Notes the operations that run while it is active."""

    def __init__(
        self, known: Callable[[Tensor], Any] = lambda _: None, own: Iterable[Tensor] = ()
    ) -> None:
        super().__init__()
        self.recording = Recording()
        self._of_module = {_key(storage) for one in own if (storage := memory_of(one)) is not None}
        self.running: list[str] = []
        self.place = ""  # of the code that called torch last
        self._known = known
        self._version: dict[Any, int] = {}
        self._own: set[int] = set()  # memory that was made in the call
        self._kept_alive: list[Any] = []

    def value(self, tensor: Tensor) -> Value:
        storage = memory_of(tensor)
        key, memory = (id(tensor), tensor) if storage is None else (_key(storage), storage)
        layout: tuple[Any, ...] = ()
        if storage is not None:
            offset = int(tensor.storage_offset())
            layout = tensor.stride(), offset, tensor.is_conj(), tensor.is_neg()
        found = Value(self._number(key, memory), tensor.dtype, tensor.shape, *layout)
        if found not in self.recording.seen:
            self.recording.seen[found] = self._known(tensor)
        return found

    def values(self, part: Any) -> Any:
        """Arguments or outputs with values in the places of tensors."""
        with unheard():
            return tree_map_only(Tensor, self.value, part)

    def _number(self, key: Any, memory: Memory) -> int:
        return self._version[key] if key in self._version else self._new_version(key, memory)

    def _new_version(self, key: Any, memory: Memory) -> int:
        number = len(self.recording.numbers)
        if key in self._of_module and key not in self._version:
            self.recording.own.add(number)
        self._version[key] = number
        self._kept_alive.append(memory)  # so that no other memory is taken for it
        self.recording.numbers[number] = memory
        return number

    def called(self) -> None:
        """Note which line of code calls torch."""
        self.place = _caller()

    def leaves(self, tensor: Tensor) -> None:
        """Note a tensor whose numbers code past torch is given."""
        if not is_ours():
            with unheard():
                self._add(None, "numbers that leave torch", [self.value(tensor)], {}, ())

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        noted, named = self.values((args, kwargs))
        ran = func
        if func in NORMS and (func is not BATCH_NORM or args[3] is None):
            with unheard(), self:  # not seen by what follows tokens, which knows the norm itself
                noted, named = self.values(NORMS[func](*args, **kwargs)), {}
            ran = _copies
        name = getattr(func, "__name__", type(func).__name__).partition(".")[0]
        with unheard():
            written = {self.value(one).memory: one for one in written_into(func, args, kwargs)}
            for number, one in written.items():
                if (storage := memory_of(one)) is None:
                    raise UnreadableError(
                        f"it writes in place into a tensor without memory of its own "
                        f"({type(one).__name__}), whose views cannot be followed"
                    )
                self.recording.numbers[number] = storage.clone()
            draws = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
            random = torch.get_rng_state() if draws else None
        out = func(*args, **kwargs)
        with unheard():
            first = len(self.recording.numbers)
            writes = {number: self._rewritten(one) for number, one in written.items()}
            outs = _tensors(out)
            values = tuple(map(self.value, outs))
            for one, value in zip(outs, values, strict=True):
                made = value.memory >= first and value.memory not in writes.values()
                if made and (storage := memory_of(one)) is not None:
                    self._own.add(_key(storage))
            makes = tuple(range(first, len(self.recording.numbers)))
            if chosen := size_chosen_by(func, (args, kwargs)):
                self._add(None, "a number of elements", self.values(chosen), {}, ())
            self._add(ran, name, noted, named, values, writes, makes, random)
        return out

    def _rewritten(self, tensor: Tensor) -> int:
        """The version of the memory that an operation has written into."""
        storage = tensor.untyped_storage()
        key = _key(storage)
        number = self._new_version(key, storage)
        if key not in self._own:  # such as that of a weight, which is restored after the call
            self.recording.numbers[number] = storage.clone()
        return number

    def _add(  # noqa: PLR0913, PLR0917 (the fields of an operation)
        self,
        func: Any,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        outs: tuple[Value, ...],
        writes: Mapping[int, int] = MappingProxyType({}),
        makes: tuple[int, ...] = (),
        random: Tensor | None = None,
    ) -> None:
        operations = self.recording.operations
        if len(operations) >= MAX_OPERATIONS:
            raise UnreadableError(
                f"one call of it runs more than {MAX_OPERATIONS} torch operations: inspect a "
                "smaller module or a shorter input"
            )
        reads = tuple(values_in((args, dict(kwargs))))
        self.recording.made_at |= dict.fromkeys(makes, len(operations))
        path, place = self.running[-1] if self.running else "", self.place
        operations.append(
            Operation(func, name, args, kwargs, reads, outs, writes, makes, place, path, random)
        )

    @contextmanager
    def noting(self, module: nn.Module, functions: Mapping[str, tuple[Any, str]]) -> Iterator[None]:
        """Note the calls of submodules, and of functions as for ``recorded``."""
        started: list[Passed] = []
        recording = self.recording

        def begin(name: str, function: Any, args: Any, kwargs: Any) -> None:
            args, kwargs = self.values((args, kwargs))
            started.append(Passed(name, function, args, kwargs, len(recording.operations)))
            recording.calls.append(started[-1])

        def end(output: Any) -> None:
            call = started.pop()
            call.output, call.ended = self.values(tensors_in(output)), len(recording.operations)

        def enter(name: str, inner: nn.Module, args: Any, kwargs: Any) -> None:
            begin(name, inner.forward, args, kwargs)
            self.running.append(name)

        def leave(_inner: nn.Module, _args: Any, output: Any) -> None:
            self.running.pop()
            end(output)

        def wrapped(name: str, plain: Any) -> Any:
            @wraps(plain)
            def call(*args: Any, **kwargs: Any) -> Any:
                begin(name, plain, args, kwargs)
                output = plain(*args, **kwargs)
                end(output)
                return output

            return call

        with ExitStack() as stack:
            for path, inner in module.named_modules():
                if path and not isinstance(inner, torch.jit.ScriptModule):
                    hook = partial(enter, path)
                    hooked = inner.register_forward_pre_hook(hook, with_kwargs=True)
                    stack.callback(hooked.remove)
                    stack.callback(inner.register_forward_hook(leave).remove)
            for called, (owner, name) in functions.items():
                stack.enter_context(replaced(owner, name, wrapped(called, getattr(owner, name))))
            yield


def recorded(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    functions: Mapping[str, tuple[Any, str]] = MappingProxyType({}),
    known: Callable[[Tensor], Any] = lambda _: None,
) -> Recording:
    """The program of one call of a module, which is restored afterwards.

    Args:
        functions: by name further functions whose calls are noted, each as the object whose
            attribute it is, and its name there.
        known: what is known of a tensor, noted when it is first seen.
    """
    attributes = (one for part in module.modules() for one in vars(part).values())
    own = (*module.parameters(), *module.buffers(), *_tensors([*attributes]))
    recorder = Recorder(known, own)
    recording, given = recorder.recording, tensors_in((args, kwargs))
    recording.is_double = torch.get_default_dtype() is torch.float64
    with isolated(module), recorder.noting(module, functions):
        recording.given = recorder.values(given)
        with Leaving(recorder.leaves, recorder.called), recorder:  # before all other modes
            output = module(*args, **kwargs)
        recording.output, recording.left = recorder.values((tensors_in(output), given))
        tensors = {name: one for name, one in vars(module).items() if isinstance(one, Tensor)}
        recording.attributes = recorder.values(tensors)
    return recording


def _key(storage: UntypedStorage) -> int:
    return storage.data_ptr() or storage._cdata


def written_into(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes into."""
    places = written_places(func)
    return _tensors([args[k] if k < len(args) else kwargs.get(name) for k, name in places])


@cache
def written_places(func: Any) -> tuple[tuple[int, str], ...]:
    """The places and names of the arguments that an operation writes into."""
    arguments = enumerate(getattr(getattr(func, "_schema", None), "arguments", ()))
    return tuple(
        (k, one.name) for k, one in arguments if one.alias_info and one.alias_info.is_write
    )


def size_chosen_by(func: Any, given: Any) -> list[Tensor]:
    """The tensors that decide how many elements an operation returns, which any code can count."""
    if torch.Tag.dynamic_output_shape not in getattr(func, "tags", ()):
        return []
    tensors = _tensors(given)
    masks = [one for one in tensors if one.dtype is torch.bool]
    return masks if masks or func is torch.ops.aten.index.Tensor else tensors


PASSED_THROUGH = ("/torch/", "/einops/", "/jaxtyping/")
"""Folders of code that calls torch for that of a module."""


MODES = ("__torch_function__", "__torch_dispatch__", "hears")


def is_ours() -> bool:
    """Whether the inspection itself calls torch, and not a module; asked while a mode is called."""
    # Between the inspection and an operation of a module is a call of that module.
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in MODES:
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name != "_call_impl":
        path, is_mode = frame.f_code.co_filename, frame.f_code.co_name in MODES
        if "/dsf/inspection/" in path and path != __file__ and not is_mode:
            return True
        frame = frame.f_back
    return False


def _caller() -> str:
    """``file:line`` of the innermost code of a module outside of these folders; else "torch"."""
    frame: Any = sys._getframe(1)
    while frame is not None:  # in a thread of the module the inspection is not on the stack
        if (frame.f_code.co_filename, frame.f_code.co_name) == (__file__, recorded.__name__):
            break
        path, is_mode = frame.f_code.co_filename, frame.f_code.co_name in MODES
        if path != __file__ and not is_mode and not any(part in path for part in PASSED_THROUGH):
            return f"{path.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"
