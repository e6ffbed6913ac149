"""Runs a model and restores its modes, attributes, buffers, weights and the random state."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from operator import is_not
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsf.inspection.capture.containers import (
    PLAIN,
    memory_key,
    slots_of,
    tensors_in,
    times_written,
)
from dsf.inspection.capture.modes import Functions
from dsf.inspection.errors import InspectionError


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Run the ``with`` block in evaluation mode, without gradients or compiled code.

    Afterwards the model is restored, whatever a pass wrote into attributes and what they hold, into
    those of its classes, into buffers and into weights; an InspectionError says where that cannot
    be undone. So are the random numbers of torch, NumPy and Python.
    """
    with (
        _same_numbers_later(model),
        torch.inference_mode(False),
        torch.no_grad(),
        _restored(model),
        ExitStack() as compiled,
    ):
        flex: Any = sys.modules.get("torch.nn.attention.flex_attention")
        if hasattr(flex, FLEX_SWITCH):  # its compiler fails where functions are followed
            compiled.enter_context(replaced(flex, FLEX_SWITCH, True))
        if "torch._dynamo" in sys.modules or any(map(_is_compiled, model.modules())):
            compiled.enter_context(torch.compiler.set_stance("force_eager"))
        model.eval()
        yield


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
MAX_HELD = 100_000
"""Most containers in attributes of a model that are restored."""

GENERATORS: tuple[type[Any], ...] = (torch.Generator, np.random.RandomState)
CONTAINERS = (dict, list, set, deque, bytearray)
LEFT = (*PLAIN, nn.Module)
"""What holds nothing to restore, and modules, whose attributes are looked at by themselves."""


class _Contents:
    """What a model, its classes and the containers and objects in their attributes hold."""

    def __init__(self, model: nn.Module):
        self.tensors: list[Tensor] = []
        self._undo: list[Callable[[], None]] = []
        self._seen: set[int] = set()
        self._waiting: list[Any] = []
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):  # torch holds its attributes
                self._waiting += vars(module).values()
            else:
                self._add(vars(module))
        for cls in {cls for module in model.modules() for cls in _own_classes(type(module))}:
            before = dict(vars(cls))
            self._undo.append(partial(_reset, cls, before))
            self._waiting += before.values()
        while self._waiting and len(self._undo) < MAX_HELD:
            self._add(self._waiting.pop())

    def _add(self, part: Any) -> None:
        if id(part) in self._seen or isinstance(part, LEFT):
            return
        self._seen.add(id(part))
        if isinstance(part, Tensor):
            self.tensors.append(part)
        elif isinstance(part, CONTAINERS):
            entries = _entries(part)
            self._undo.append(partial(_refill, part, entries))
            self._waiting += [one for one in entries if type(one) not in PLAIN]
        elif isinstance(part, tuple):
            self._waiting += part
        elif type(part) is np.ndarray:
            if part.flags.writeable:
                self._undo.append(partial(np.copyto, part, part.copy()))
        elif isinstance(part, random.Random):
            self._undo.append(partial(part.setstate, part.getstate()))
        elif isinstance(part, np.random.Generator):
            bits = part.bit_generator
            self._undo.append(partial(setattr, bits, "state", bits.state))
        elif isinstance(part, GENERATORS):
            self._undo.append(partial(part.set_state, part.get_state()))
        else:
            self._add_object(part)

    def _add_object(self, part: Any) -> None:
        if isinstance(own := getattr(part, "__dict__", None), dict):
            self._waiting.append(own)
        held = {name: getattr(part, name) for name in slots_of(part) if hasattr(part, name)}
        if held:
            self._undo.append(partial(_reset_slots, part, held))
            self._waiting += held.values()

    def restore(self) -> None:
        for undo in self._undo:
            undo()


def _own_classes(cls: type) -> list[type]:
    """A class of a model and those that it inherits from, up to torch's."""
    return [each for each in cls.__mro__ if not each.__module__.startswith(("torch.", "builtins"))]


def _refill(part: Any, before: list[Any]) -> None:
    now = _entries(part)
    if len(now) == len(before) and not any(map(is_not, now, before)):
        return
    part.clear()
    if isinstance(part, dict):
        half = len(before) // 2
        part.update(dict(zip(before[:half], before[half:], strict=True)))
    else:
        add = part.update if isinstance(part, set) else part.extend
        add(before)


def _entries(part: Any) -> list[Any]:
    return [*part, *(part.values() if isinstance(part, dict) else ())]


def _reset(cls: type, before: dict[str, Any]) -> None:
    """Have the attributes of a class as they were, but for those that Python makes by itself."""
    for name, value in {**vars(cls)}.items():
        if name.startswith("__"):
            continue
        if name not in before:
            delattr(cls, name)
        elif value is not before[name]:
            setattr(cls, name, before[name])


def _reset_slots(part: Any, before: dict[str, Any]) -> None:
    for name, value in before.items():
        if getattr(part, name, None) is not value:
            object.__setattr__(part, name, value)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    scripted = [part for part in model.modules() if isinstance(part, torch.jit.ScriptModule)]
    modes = [part.training for part in scripted]
    contents = _Contents(model)
    backup = _WeightBackup([*model.parameters(), *model.buffers(), *contents.tensors])
    try:
        with backup:
            yield
    finally:
        contents.restore()
        for part, training in zip(scripted, modes, strict=True):
            part.train(training)
        lost = backup.restore()
    if lost:
        raise InspectionError(
            f"{type(model).__name__}: its forward pass wrote into {lost} of its weights or buffers "
            "past torch's functions, so that they could not be restored. Load the model again."
        )


class _WeightBackup(Functions):
    """Copies a weight before a torch function writes into it in place, or into a view of it."""

    def __init__(self, parts: Sequence[Tensor]):
        super().__init__()
        self._versions = {part: times_written(part) for part in parts}
        self._places = {part: (_place(part), part.detach()) for part in self._versions}
        self._stored: dict[int, list[Tensor]] = {}
        for part in self._versions:
            self._stored.setdefault(memory_key(part), []).append(part)
        self._before: dict[Tensor, Tensor] = {}

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _writes(getattr(func, "__name__", "")) or kwargs.get("inplace") or "out" in kwargs:
            first = args[0] if args else None
            written = (first, kwargs.get("out"), kwargs.get("input"), kwargs.get("self"))
            for part in tensors_in(written):
                self._keep(part)
        return func(*args, **kwargs)

    def _keep(self, written: Tensor) -> None:
        with torch._C.DisableTorchFunction():
            is_one = written in self._versions
            for part in [written] if is_one else self._stored.get(memory_key(written), []):
                if part not in self._before:
                    self._before[part] = part.detach().clone()

    def restore(self) -> int:
        """Put back what was written over; how many parts were written into in another way."""
        changed = [part for part, n in self._versions.items() if times_written(part) != n]
        for part, (place, found) in self._places.items():
            if _place(part) != place:  # it was given other memory, or another shape
                part.data = found
        for part, before in self._before.items():
            part.copy_(before)
        return sum(part not in self._before for part in changed)


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


NOT_IN_PLACE = {"__index__", "__int__", "__init__", "__invert__", "__iter__", "__instancecheck__"}


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped, or ``model`` if it wrapped none."""
    return getattr(model, "_orig_mod", model)


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


@contextmanager
def _same_numbers_later(model: nn.Module) -> Iterator[None]:
    """After the ``with`` block, the random numbers follow that would have followed before it."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=_gpus(model)):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


@contextmanager
def same_numbers(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Let a pass draw the numbers that the next one draws, too; yield whether any were drawn."""
    with _same_numbers_later(model):
        before = random_state(model)
        yield lambda: before != random_state(model)


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
