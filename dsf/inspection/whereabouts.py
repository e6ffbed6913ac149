"""Which module of a model is running, for calls that carry no module with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class Whereabouts:
    """The modules that are running now, outermost first.

    Attributes:
        claimed: modules whose inside is read in another way.
    """

    def __init__(self, model: nn.Module, claimed: set[str]):
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[nn.Module] = []
        self.claimed = set(claimed)

    @property
    def module(self) -> nn.Module | None:
        """The innermost module of the model that is running."""
        return next((part for part in reversed(self._running) if part in self._names), None)

    def name_of(self, module: nn.Module) -> str:
        """Where ``module`` sits in the model, empty for the model itself and for strangers."""
        return self._names.get(module, "")

    def is_claimed(self) -> bool:
        """Whether a module that is running is read in another way."""
        return any(self._names.get(part) in self.claimed for part in self._running)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep track while the block runs."""
        handles = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        try:
            yield
        finally:
            self._running.clear()
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._running.append(module)

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self._running and self._running[-1] is module:
            self._running.pop()
