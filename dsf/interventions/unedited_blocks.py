"""The blocks of a model before its first edit, which put out in a changed run what they did before.

Whatever reads a block's output gets its own output of the clean run, so that it does not matter how
blocks are wired. A block that leaves something elsewhere than in its output, such as a cache, an
entry of a list or a number in a buffer, runs again.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.utils._pytree import tree_leaves, tree_map

from dsf.inspection.capture.calls import copied
from dsf.inspection.capture.integrity import times_written


@dataclass(frozen=True)
class Copies:
    """How often a batch holds the samples of another one, all of them before the first again.

    Attributes:
        samples: how many samples the other batch has.
    """

    samples: int = 1
    times: int = 1

    def of(self, part: Any) -> Any:
        """``part`` with every tensor whose first axis counts the samples repeated along it."""
        if self.times == 1:
            return part
        return tree_map(self._repeated, part)

    def _repeated(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.shape[:1] != (self.samples,):
            return leaf
        return leaf.repeat(self.times, *(1 for _ in leaf.shape[1:]))


class CleanBlocks:
    """What the blocks of a model put out in its clean run.

    Blocks are the entries of the outermost lists of modules.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._blocks = _entries(model)
        self._begun: list[str] = []
        self._ended_before: dict[str, set[str]] = {}
        self._outputs: dict[str, Any] = {}
        self._seen: dict[str, list[Any]] = {}
        self._leaving: set[str] = set()
        self._awaited: set[str | None] | None = None
        inside = {id(part) for each in self._blocks.values() for part in each.modules()}
        self._outside = [part for part in model.modules() if id(part) not in inside]

    @contextmanager
    def recorded(self, until: Collection[str] | None = None) -> Iterator[None]:
        """Record what the blocks put out inside the ``with`` block.

        Args:
            until: modules that may be the first to be edited in a changed run: no block is
                recorded once those with one of them have all begun.
        """
        if until is not None:
            self._awaited = {_block_of(path, self._blocks) for path in until}
        with ExitStack() as hooks:
            for path, block in self._blocks.items():
                before = block.register_forward_pre_hook(self._before(path), with_kwargs=True)
                # Hooks of others are called again on what a block that is left out puts out.
                after = block.register_forward_hook(
                    self._after(path), with_kwargs=True, prepend=True
                )
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            yield

    @contextmanager
    def left_out_before(
        self, edited: Collection[str], copies: "Copies | None" = None
    ) -> Iterator[None]:
        """Do not run the blocks that had ended before the first with one of these modules began.

        None is left out where an edited module lies in no block, or in several places.

        Args:
            copies: how often the changed run has the samples of the clean one.
        """
        several = Copies() if copies is None else copies
        with ExitStack() as restored:
            for path in self._unedited(edited):
                block, output = self._blocks[path], self._outputs[path]
                block.forward = lambda *_, output=output, **__: several.of(copied(output))
                restored.callback(vars(block).pop, "forward")
            yield

    def _unedited(self, edited: Collection[str]) -> list[str]:
        around = {path: _block_of(path, self._blocks) for path in edited}
        first = next((path for path in self._begun if path in around.values()), None)
        if first is None or None in around.values() or self._is_shared(edited):
            return []
        if torch_modules._global_forward_hooks:  # called before ours, and again
            return []
        once = {path for path in self._outputs if self._begun.count(path) == 1}
        once -= self._leaving
        plain = {path for path in once if "forward" not in vars(self._blocks[path])}
        return sorted(self._ended_before[first] & plain)

    def _is_shared(self, edited: Collection[str]) -> bool:
        wanted = {self._model.get_submodule(path) for path in edited}
        places = [
            module
            for _, module in self._model.named_modules(remove_duplicate=False)
            if module in wanted
        ]
        return len(places) > len(wanted)

    def _before(self, path: str) -> Any:
        def hook(block: nn.Module, args: Any, kwargs: Any) -> None:
            self._ended_before.setdefault(path, set(self._outputs))
            self._begun.append(path)
            if self._awaited is not None:
                self._awaited.discard(path)
            if self._awaited != set():
                self._seen[path] = self._around(block, args, kwargs)

        return hook

    def _after(self, path: str) -> Any:
        def hook(block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if path not in self._seen:
                return
            self._outputs[path] = copied(output)
            before, after = self._seen.pop(path), self._around(block, args, kwargs)
            if not is_same(before, after):
                self._leaving.add(path)

        return hook

    def _around(self, block: nn.Module, args: Any, kwargs: Any) -> list[Any]:
        """What a block can reach and write into beside its output."""
        found: list[Any] = []
        seen: set[int] = set()  # modules share their configuration, into which one look is enough
        parts = [
            part
            for owner in (*block.modules(), *self._outside)
            for part in (*dict(of_its_own(owner)).values(), *owner._buffers.values())
        ]
        parts += [part for part in (*args, *kwargs.values()) if not isinstance(part, Tensor)]
        for part in parts:
            if type(part) in _PLAIN:
                found.append(part)
                continue
            found += [part] if id(part) in seen else traces(part)
            seen.add(id(part))
        return found


def of_its_own(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that are not torch's."""
    return ((name, part) for name, part in vars(module).items() if name not in _OF_TORCH)


_OF_TORCH = {"_parameters", "_buffers", "_modules", *(n for n in vars(nn.Module()) if "hook" in n)}


_PLAIN = {int, float, str, bool, type(None)}
_SIZED = (list, tuple, set, dict)


def traces(part: Any) -> list[Any]:
    """What would change about an object if something were left in it; it is kept alive."""
    if type(part) in _PLAIN:
        return [part]
    if isinstance(part, Tensor):
        return [part, times_written(part)]
    if isinstance(part, list | tuple | set):
        return [part, len(part), *(each for each in part if isinstance(each, Tensor))]
    if isinstance(part, dict):
        return [part, len(part), *part.values()]
    if hasattr(part, "__dict__") and not isinstance(part, nn.Module | type):
        values = vars(part).values()
        return [part, *values, *(len(each) for each in values if isinstance(each, _SIZED))]
    return [part]


def has_hold_of(model: nn.Module, given: Any, tensor: Tensor) -> bool:
    """Whether a tensor shares its memory with weights, attributes or inputs of a model.

    A later run may write into such a one. One of inference mode takes no part in gradients, and
    counts as held.
    """
    if tensor.is_inference():
        return True
    place = tensor.untyped_storage().data_ptr()
    parts = [*model.parameters(), *model.buffers(), *tree_leaves(given)]
    seen: set[int] = set()
    for module in model.modules():
        for _, part in of_its_own(module):
            if type(part) in _PLAIN or id(part) in seen:
                continue
            seen.add(id(part))
            parts += tree_leaves(part) if isinstance(part, list | tuple | dict) else traces(part)
    held = (part for part in parts if isinstance(part, Tensor))
    return any(part.untyped_storage().data_ptr() == place for part in held)


def is_same(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether two lists hold the same objects, or equal plain ones."""
    return len(before) == len(after) and all(map(_is_one, before, after))


def _is_one(one: Any, other: Any) -> bool:
    plain = int | float | str | bool
    return one is other or (isinstance(one, plain) and isinstance(other, plain) and one == other)


def _entries(model: nn.Module) -> dict[str, nn.Module]:
    """The entries of the outermost lists of modules, by path."""
    found: dict[str, nn.Module] = {}
    waiting = [("", model)]
    while waiting:
        path, module = waiting.pop(0)
        children = [(f"{path}.{name}".lstrip("."), part) for name, part in module.named_children()]
        if isinstance(module, nn.ModuleList | nn.Sequential):
            scripted = torch.jit.ScriptModule
            found |= {at: part for at, part in children if not isinstance(part, scripted)}
        else:
            waiting += children
    return found


def _block_of(path: str, blocks: Collection[str]) -> str | None:
    return next((at for at in blocks if path == at or path.startswith(f"{at}.")), None)
