"""Runs a model and restores its modes, attributes, buffers, weights and the random state."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache, partial
from operator import is_not
from types import CellType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsf.inspection.capture.containers import (
    NOTHING,
    memory_key,
    slots_of,
    tensors_in,
    times_written,
)
from dsf.inspection.capture.modes import Functions
from dsf.inspection.errors import InspectionError
from dsf.runtime.threads import WhileAny

Changes = list[tuple[Any, Any]]
"""What was changed in place, each with what it held before."""


@contextmanager
def isolated(model: nn.Module) -> Iterator[Callable[[], Changes]]:
    """Run the ``with`` block in evaluation mode, without gradients or compiled code.

    Afterwards the model is restored, whatever a pass wrote into attributes and what they hold, into
    its classes and functions and what these keep, into buffers, weights and their gradients; an
    InspectionError says where that cannot be undone. So are the random numbers of torch, NumPy and
    Python. Yields a function that says what has been changed in evaluation mode until now.
    """
    with (
        same_numbers(model),
        torch.inference_mode(False),
        torch.no_grad(),
        restored(model) as changes,
        _UNCOMPILED,
    ):
        with suppress(NotImplementedError):  # of an exported program, which has one mode alone
            model.eval()
        early = {id(part) for part, _ in changes()}  # such as weights that are merged now
        yield lambda: [pair for pair in changes() if id(pair[0]) not in early]


@contextmanager
def _without_compiler() -> Iterator[None]:
    with ExitStack() as stack:
        flex: Any = sys.modules.get("torch.nn.attention.flex_attention")
        if hasattr(flex, FLEX_SWITCH):  # its compiler fails where functions are followed
            stack.enter_context(replaced(flex, FLEX_SWITCH, True))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        else:
            stack.callback(_forget_compiled)
        yield


def _forget_compiled() -> None:
    """Have the compiler, where it came in a run that was heard, compile all anew."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


_UNCOMPILED = WhileAny(_without_compiler)  # there is one compiler for all threads


@contextmanager
def _without_inference_mode() -> Iterator[None]:
    """Have code that asks for inference mode get no gradients: only there writes are counted."""

    def enter(mode: Any) -> None:
        mode._inference_mode_context = torch.no_grad() if mode.mode else nullcontext()
        mode._inference_mode_context.__enter__()

    with replaced(torch.inference_mode, "__enter__", enter):
        yield


_COUNTED = WhileAny(_without_inference_mode)  # the class is one for all threads


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """Have another attribute in its place inside the ``with`` block."""
    is_own, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


FLEX_SWITCH = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
MOST = 200_000
"""Most containers and objects in attributes of a model that are restored."""

GENERATORS = (torch.Generator, np.random.RandomState, random.Random)
CONTAINERS = (dict, list, set, deque, bytearray)
GLOBALS = (*CONTAINERS, Tensor, np.ndarray, int, float, type(None))
"""What a name of a Python module stands for where its functions may keep something."""
OTHERS = {*sys.stdlib_module_names, "torch", "numpy", "transformers"}
"""Packages whose classes and functions keep nothing for a model."""
LINKS: Mapping[type, tuple[str, ...]] = {
    FunctionType: ("__closure__",),
    MethodType: ("__self__", "__func__"),
    partial: ("func", "args", "keywords"),
    **dict.fromkeys((staticmethod, classmethod), ("__func__",)),
    property: ("fget",),
    np.random.Generator: ("bit_generator",),
}
"""What functions hold, and what a generator draws from."""
OF_TORCH = vars(nn.Module()).keys()
HOOKS = {name for name in OF_TORCH if name.endswith("hooks")}


class _Contents:
    """What a model, its classes, functions, containers and objects in its attributes hold.

    What its hooks hold, and names outside of classes, is not restored: a run may be watched there.
    """

    def __init__(self, model: nn.Module):
        self.tensors: list[Tensor] = []
        self._held: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        self._of_modules: set[int] = set()
        self._hooks: set[int] = set()
        self._later: list[Any] = []
        self._restored = 0
        self._add([*model.modules()])
        self._restored = len(self._held)
        self._seen -= {*map(id, self._later)}
        self._add(self._later)

    def _add(self, waiting: list[Any]) -> None:
        for part in waiting:  # which grows meanwhile
            if id(part) not in self._seen and len(self._seen) < MOST:
                self._seen.add(id(part))
                inside = self._inside(part)
                waiting += [] if id(part) in self._hooks else inside

    def _inside(self, part: Any) -> list[Any]:
        """What hangs on something that the model holds, whose contents are kept."""
        is_tensor = isinstance(part, Tensor)
        is_later = isinstance(part, FunctionType) and not self._restored
        held = () if is_tensor or is_later else _look(part)
        if isinstance(part, CONTAINERS) or len(held):
            self._held.append((part, held))
        if isinstance(held, np.ndarray):
            return []
        inside = [*tuple.__iter__(part)] if isinstance(part, tuple) else _entries(held)
        inside += [getattr(part, name) for name in LINKS.get(type(part), ())]
        own: Any = getattr(part, "__dict__", None)
        if isinstance(part, torch.jit.ScriptModule):  # torch holds its attributes
            inside += vars(part).values()
        elif isinstance(own, dict) and (own or is_tensor or _is_own(type(part))):
            inside += own, type(part)
        if isinstance(part, type):
            inside += part.__mro__[1:]
        elif isinstance(part, nn.Module):
            self._of_modules |= {id(own), *(id(own[name]) for name in OF_TORCH & own.keys())}
            hooks = [own[name] for name in HOOKS & own.keys()]
            self._hooks.update(map(id, hooks))
            self._later += [hook for each in hooks for hook in each.values()]
        elif is_tensor:
            self.tensors.append(part)
        elif is_later:
            self._later.append(part)
        return [one for one in inside if not isinstance(one, NOTHING)]

    def changed(self) -> Changes:
        """What holds something else now, with what it held; not that of modules themselves."""
        pairs = (pair for pair in self._held if id(pair[0]) not in self._of_modules)
        return [(part, before) for part, before in pairs if _differs(_look(part), before)]

    def restore(self) -> None:
        for part, before in self._held[: self._restored]:
            _put(part, before)


def _is_own(part: Any) -> bool:
    """Whether a class or function is one of a model, or of code that it calls."""
    return part.__module__ is not None and part.__module__.partition(".")[0] not in OTHERS


def _entries(part: Any) -> list[Any]:
    return [*part, *(part.values() if isinstance(part, dict) else ())]


def _differs(now: Any, before: Any) -> bool:
    if isinstance(before, np.ndarray):
        return bool(now.tobytes() != before.tobytes())
    if isinstance(before, Tensor):
        return not torch.equal(now, before)
    entries = _entries(now), _entries(before)
    return len(entries[0]) != len(entries[1]) or any(map(is_not, *entries))


def _look(part: Any) -> Any:
    """What something holds that a pass may change in it."""
    if isinstance(part, Tensor):
        return part.detach().clone()
    if isinstance(part, CONTAINERS):
        return dict(zip(part, part.values(), strict=True)) if isinstance(part, dict) else [*part]
    if type(part) is np.ndarray:
        return part.copy() if part.flags.writeable else ()
    if isinstance(part, GENERATORS):
        return [_methods(part)[0]()]
    return _named_in(part)


def _methods(part: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What returns the state of a generator of random numbers, and what sets it."""
    if isinstance(part, random.Random):
        return part.getstate, part.setstate
    return part.get_state, part.set_state


def _named_in(part: Any) -> dict[str, Any]:
    """What a class, a function or an object has in names, but for those in ``__dict__``."""
    if isinstance(part, type):
        every = vars(part) if _is_own(part) else {}  # but for those that Python makes by itself
        return {name: value for name, value in every.items() if not name.startswith("__")}
    if isinstance(part, FunctionType):
        known = part.__globals__ if _is_own(part) else {}
        found = {name: known[name] for name in part.__code__.co_names if name in known}
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, GLOBALS)
            or (isinstance(value, type | FunctionType) and value.__module__ == part.__module__)
        }
    settable = ((CellType, "cell_contents"), (np.random.BitGenerator, "state"))
    names = [name for kind, name in settable if isinstance(part, kind)] or slots_of(part)
    return {name: getattr(part, name) for name in names if hasattr(part, name)}


def _put(part: Any, before: Any) -> None:
    """Have something hold what it held, as ``_look`` saw it."""
    now = _look(part)
    if not _differs(now, before):
        return
    if isinstance(part, np.ndarray):
        np.copyto(part, before)
    elif isinstance(part, Tensor):
        part.data.copy_(before)  # which does not count as written into
    elif isinstance(part, CONTAINERS):
        part.clear()
        add = part.extend if isinstance(part, list | deque | bytearray) else part.update
        add(before)
    elif isinstance(part, FunctionType):
        part.__globals__.update(before)
    elif isinstance(part, GENERATORS):
        _methods(part)[1](*before)
    else:
        change = partial(type.__setattr__ if isinstance(part, type) else object.__setattr__, part)
        for name in now.keys() - before.keys():
            delattr(part, name)
        for name in before:
            if now.get(name) is not before[name]:
                change(name, before[name])


@contextmanager
def restored(model: nn.Module) -> Iterator[Callable[[], Changes]]:
    """Have a model as it was after the ``with`` block, its modes included."""
    scripted = [part for part in model.modules() if isinstance(part, torch.jit.ScriptModule)]
    modes = [part.training for part in scripted]
    contents = _Contents(model)
    parts = dict.fromkeys((*model.parameters(), *model.buffers(), *contents.tensors))
    backup = _WeightBackup([*parts])
    # Tensors that were made in inference mode cannot be written into outside of it.
    counted = nullcontext() if any(part.is_inference() for part in parts) else _COUNTED
    leaves = [(part, part.requires_grad, part.grad) for part in model.parameters()]
    for leaf, _, gradient in leaves:  # a pass may add to it
        if gradient is not None:
            leaf.grad = None
    try:
        with backup, counted:
            yield lambda: [*contents.changed(), *backup.before.items()]
    finally:
        contents.restore()
        for part, training in zip(scripted, modes, strict=True):
            part.train(training)
        lost = backup.restore()
        for leaf, is_trained, gradient in leaves:
            if leaf.requires_grad is not is_trained:
                leaf.requires_grad = is_trained
            leaf.grad = gradient
    if lost:
        raise InspectionError(
            f"{type(model).__name__}: its forward pass wrote into {lost} of its weights or buffers "
            "past torch's functions, so that they could not be restored. Load the model again."
        )


@contextmanager
def undone(changes: Changes) -> Iterator[None]:
    """Inside the ``with`` block, what was changed holds what it held before."""
    now = [(part, _look(part)) for part, _ in changes]
    for pair in reversed(changes):
        _put(*pair)
    try:
        yield
    finally:
        for pair in now:
            _put(*pair)


class _WeightBackup(Functions):
    """Copies a weight before a torch function writes into it in place, or into a view of it."""

    def __init__(self, parts: Sequence[Tensor]):
        super().__init__()
        self._versions = {part: times_written(part) for part in parts}
        self._places = {part: (_place(part), part.detach()) for part in self._versions}
        self._stored: dict[int, list[Tensor]] = {}
        for part in self._versions:
            self._stored.setdefault(memory_key(part), []).append(part)
        self.before: dict[Tensor, Tensor] = {}

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if _writes(name) or kwargs.get("inplace") or "out" in kwargs:
            first = args[0] if args else None
            written: Any = (first, kwargs.get("out"), kwargs.get("input"), kwargs.get("self"))
        else:
            written = (args, kwargs) if name in _UNTOLD else ()
        for part in tensors_in(written):
            self._keep(part)
        return func(*args, **kwargs)

    def _keep(self, written: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            is_one = written in self._versions
            for part in [written] if is_one else self._stored.get(memory_key(written), []):
                if part not in self.before:
                    self.before[part] = part.detach().clone()

    def restore(self) -> int:
        """Put back what was written over; how many parts were written into in another way."""
        moved = {part for part, (place, _) in self._places.items() if _place(part) != place}
        changed = {part for part, n in self._versions.items() if times_written(part) != n}
        for part in moved:  # it was given other memory, or another shape
            part.data = self._places[part][1]
        for part, before in reversed(self.before.items()):  # they may share memory
            if torch.equal(part, before):  # which would count as written into
                continue
            with torch.inference_mode() if part.is_inference() else torch.no_grad():
                part.copy_(before)
        return len(changed - moved - self.before.keys())


def _place(part: Tensor) -> tuple[Any, ...]:
    """Where in memory a tensor lies, and in which shape."""
    is_strided = part.layout is torch.strided
    strides = (part.stride(), part.storage_offset()) if is_strided else ()
    return memory_key(part), part.shape, *strides


@cache
def _writes(name: str) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in NOT_IN_PLACE)
    return name.endswith("_")


_UNTOLD = {"batch_norm", "instance_norm", "numpy", "__array__", "__dlpack__", "untyped_storage"}
"""Functions that write into statistics, or give memory away, whatever they are called."""
NOT_IN_PLACE = {"__index__", "__int__", "__init__", "__invert__", "__iter__", "__instancecheck__"}


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped, or ``model`` if it wrapped none."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def same_numbers(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Let a pass draw the numbers that the next one draws, too; yield whether any were drawn."""
    of_python, of_numpy, before = random.getstate(), np.random.get_state(), random_state(model)
    with torch.random.fork_rng(devices=_gpus(model)):
        try:
            yield lambda: before != random_state(model)
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def random_state(model: nn.Module) -> tuple[Any, ...]:
    """The states of the generators that a model draws from; not Python's, as checks of types do."""
    of_gpus = [torch.cuda.get_rng_state(each) for each in sorted(_gpus(model), key=str)]
    of_torch = [state.numpy().tobytes() for state in (torch.get_rng_state(), *of_gpus)]
    of_numpy: Any = np.random.get_state()
    return *of_torch, of_numpy[1].tobytes(), of_numpy[2:]


def _gpus(model: nn.Module) -> list[torch.device]:
    if not torch.cuda.is_initialized():  # then no tensor lies on one
        return []
    return list({part.device for part in model.parameters() if part.device.type == "cuda"})
