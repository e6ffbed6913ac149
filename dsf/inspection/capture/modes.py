"""What hears the calls of torch: of functions ahead of them, of ATen operations after them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class Functions(TorchFunctionMode):
    """Gives every call of a torch function to ``hears``, which calls it."""

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.hears(func, args, kwargs or {})


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, nothing hears what is called."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


@contextmanager
def at_rest() -> Iterator[None]:
    """Inside, where no code of a model runs, those rest that hear functions now."""
    modes: list[Any] = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    others = [mode for mode in modes if not isinstance(mode, Functions)]  # as a default device
    try:
        for mode in reversed(others):
            _push_mode(mode)
        yield
    finally:
        for _ in others:
            _pop_mode()
        for mode in reversed(modes):
            _push_mode(mode)


class Operations(TorchDispatchMode):
    """Gives every ATen operation to ``hears``, which calls it."""

    supports_higher_order_operators = True  # as flex_attention is one

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.hears(func, args, kwargs or {})


class Heard(Operations):
    """Calls a function after every operation with its function, arguments and output."""

    def __init__(self, after: Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]) -> None:
        super().__init__()
        self._after = after

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        self._after(func, args, kwargs, out)
        return out
