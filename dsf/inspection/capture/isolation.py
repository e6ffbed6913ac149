"""Runs a model and restores its modes, attributes, buffers, weights and the random state."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Run the ``with`` block in evaluation mode, without gradients or compiled code.

    Afterwards, also when the run fails, the model is restored: whatever a forward pass wrote into
    attributes, buffers or (in place) into weights is undone.
    """
    with (
        torch.random.fork_rng(devices=_gpus(model)),
        torch.inference_mode(False),
        torch.no_grad(),
        _attributes_restored(model),
        _weights_restored(model),
        ExitStack() as compiled,
    ):
        if any(_is_compiled(module) for module in model.modules()):
            compiled.enter_context(torch.compiler.set_stance("force_eager"))
        model.eval()
        yield


@contextmanager
def _attributes_restored(model: nn.Module) -> Iterator[None]:
    modules = [part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule)]
    scripted = [part for part in model.modules() if isinstance(part, torch.jit.ScriptModule)]
    modes = [part.training for part in scripted]
    attributes = [dict(vars(module)) for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    try:
        yield
    finally:
        for module, before, tensors in zip(modules, attributes, buffers, strict=True):
            vars(module).clear()
            vars(module).update(before)
            module._buffers.clear()
            module._buffers.update(tensors)
        for part, training in zip(scripted, modes, strict=True):
            part.train(training)


@contextmanager
def _weights_restored(model: nn.Module) -> Iterator[None]:
    backup = _WeightBackup([*model.parameters(), *model.buffers()])
    try:
        with backup:
            yield
    finally:
        for part, before in backup.before.values():
            part.copy_(before)


class _WeightBackup(TorchFunctionMode):
    """Copies a weight before a torch function writes into it in place."""

    def __init__(self, parts: Sequence[Tensor]):
        super().__init__()
        self._watched = {id(part) for part in parts}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if (
            args
            and id(args[0]) in self._watched
            and _writes(name)
            and id(args[0]) not in self.before
        ):
            self.before[id(args[0])] = (args[0], args[0].detach().clone())
        return func(*args, **(kwargs or {}))


def _writes(name: str) -> bool:
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


@contextmanager
def same_numbers(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Let a forward pass draw the random numbers that the next one is to draw as well.

    Yields:
        A function that says whether any were drawn.
    """
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
