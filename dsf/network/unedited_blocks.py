"""The blocks of a model before its first edit, which put out in a changed run what they did before.

Whatever reads a block's output gets its own output of the clean run, so that it does not matter how
blocks are wired. What a block leaves elsewhere than in its output, such as a cache, is not there.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from dsf.inspection.capture.calls import copied


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

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what the blocks put out inside the ``with`` block."""
        with ExitStack() as hooks:
            for path, block in self._blocks.items():
                before = block.register_forward_pre_hook(self._before(path))
                after = block.register_forward_hook(self._after(path))
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            yield

    @contextmanager
    def left_out_before(self, edited: Collection[str]) -> Iterator[None]:
        """Do not run the blocks that had ended before the first with one of these modules began.

        None is left out where an edited module lies in no block, or in several places.
        """
        with ExitStack() as restored:
            for path in self._unedited(edited):
                block, output = self._blocks[path], self._outputs[path]
                block.forward = lambda *_, output=output, **__: copied(output)
                restored.callback(vars(block).pop, "forward")
            yield

    def _unedited(self, edited: Collection[str]) -> list[str]:
        around = {path: _block_of(path, self._blocks) for path in edited}
        first = next((path for path in self._begun if path in around.values()), None)
        if first is None or None in around.values() or self._is_shared(edited):
            return []
        once = {path for path in self._outputs if self._begun.count(path) == 1}
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
        def hook(*_: Any) -> None:
            self._ended_before.setdefault(path, set(self._outputs))
            self._begun.append(path)

        return hook

    def _after(self, path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._outputs[path] = copied(output)

        return hook


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
