"""Runs a model and restores its modes, attributes, buffers, weights and the random state."""

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.capture.containers import PLAIN, memory_key, tensors_in, times_written
from dsf.inspection.capture.modes import Functions
from dsf.inspection.errors import InspectionError


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Run the ``with`` block in evaluation mode, without gradients or compiled code.

    Afterwards the model is restored, whatever a pass wrote into attributes and what they hold, into
    buffers and into weights; an InspectionError says where that cannot be undone.
    """
    with (
        torch.random.fork_rng(devices=_gpus(model)),
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


class _Contents:
    """What a model's attributes are, and the lists, dictionaries, sets and objects in them hold."""

    def __init__(self, model: nn.Module):
        self.tensors: list[Tensor] = []
        self._before: list[tuple[Any, Any]] = []
        waiting: list[Any] = []
        for module in model.modules():
            inside = vars(module)
            waiting += inside.values()
            if not isinstance(module, torch.jit.ScriptModule):
                self._before.append((inside, dict(inside)))
        seen = {id(part) for part, _ in self._before}
        while waiting and len(self._before) < MAX_HELD:
            part = waiting.pop()
            if type(part) in PLAIN or id(part) in seen or isinstance(part, (*PLAIN, nn.Module)):
                continue
            seen.add(id(part))
            if isinstance(part, Tensor):
                self.tensors.append(part)
            elif isinstance(part, dict):
                self._before.append((part, dict(part)))
                waiting += part.values()
            elif isinstance(part, list | set | deque | bytearray):
                self._before.append((part, copy.copy(part)))
                waiting += () if isinstance(part, bytearray) else part
            elif isinstance(part, tuple):
                waiting += part
            elif isinstance(own := getattr(part, "__dict__", None), dict):
                waiting.append(own)

    def restore(self) -> None:
        for part, before in self._before:
            now, then = _entries(part), _entries(before)
            if len(now) != len(then) or any(map(is_not, now, then)):
                part.clear()
                add = part.update if isinstance(part, dict | set) else part.extend
                add(before)


def _entries(part: Any) -> list[Any]:
    return [*part, *(part.values() if isinstance(part, dict) else ())]


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
        for part, before in self._before.items():
            part.copy_(before)
        return sum(part not in self._before for part in changed)


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
def same_numbers(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Let a pass draw the numbers that the next one draws, too; yield whether any were drawn."""
    with torch.random.fork_rng(devices=_gpus(model)):
        before = random_state(model)
        yield lambda: not torch.equal(before, random_state(model))


def random_state(model: nn.Module) -> Tensor:
    """The states of the generators that a model draws from, in one row."""
    states = [torch.cuda.get_rng_state(each) for each in sorted(_gpus(model), key=str)]
    return torch.cat([torch.get_rng_state(), *states])


def _gpus(model: nn.Module) -> list[torch.device]:
    if not torch.cuda.is_initialized():  # then no tensor lies on one
        return []
    return list({part.device for part in model.parameters() if part.device.type == "cuda"})
