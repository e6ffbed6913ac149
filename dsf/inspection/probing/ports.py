"""``Port``: a place inside a running module where a tensor is read or replaced."""

import inspect as signatures
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor, nn

from dsf.inspection.errors import InspectionError

Touch = Callable[[Tensor], None]
WHERE = re.compile(r"(?P<name>[\w.]*)(\((?P<argument>\w+)\))?")


def as_it_is(tensor: Tensor) -> Tensor:
    """The view of a tensor that needs none."""
    return tensor


@dataclass(frozen=True)
class Port:
    """The place in a module where its values enter or its response leaves.

    Attributes:
        where: ``v_proj`` for the output of a submodule, ``out_proj(input)`` for one of its
            arguments. Methods, and functions in the file that defines the module's class, are named
            in the same way, such as ``scan(value)``. ``""`` is the module's output and ``(x)`` its
            argument.
        view: a function from that tensor to a view of it as ``sample time channel`` or
            ``sample time head channel``.
    """

    where: str = ""
    view: Callable[[Tensor], Tensor] = as_it_is

    def __post_init__(self) -> None:
        if WHERE.fullmatch(self.where) is None:
            raise ValueError(
                f"Port: 'where' must be a name such as 'v_proj', or one with an argument such as "
                f"'out_proj(input)', but it is {self.where!r}."
            )

    @property
    def name(self) -> str:
        """The name of the submodule, method or function."""
        return self.where.partition("(")[0]

    @property
    def argument(self) -> str | None:
        """The name of its argument; None for its output."""
        return self.where.partition("(")[2].rstrip(")") or None


@contextmanager
def tapped(module: nn.Module, port: Port, touch: Touch) -> Iterator[None]:
    """Inside the ``with`` block, pass tensors at ``port`` to ``touch``, which may write to it.

    Raises:
        InspectionError: if the module has no such submodule, function or argument.
    """
    inner = dict(module.named_modules()).get(port.name)
    if inner is not None:
        handle = _hooked(inner, port, touch)
        try:
            yield
        finally:
            handle.remove()
        return
    owner, name = _function(module, port)
    plain, was_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, _wrapped(plain, port, touch))
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, plain)
        else:
            delattr(owner, name)


def _hooked(inner: nn.Module, port: Port, touch: Touch) -> Any:
    if port.argument is None:
        return inner.register_forward_hook(lambda *call: _touched(call[-1], port, touch))

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _exchanged(inner.forward, args, kwargs, port, touch)

    return inner.register_forward_pre_hook(before, with_kwargs=True)


def _wrapped(function: Callable[..., Any], port: Port, touch: Touch) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if port.argument is None:
            return _touched(function(*args, **kwargs), port, touch)
        args, kwargs = _exchanged(function, args, kwargs, port, touch)
        return function(*args, **kwargs)

    return call


def _exchanged(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    port: Port,
    touch: Touch,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, where that of ``port`` is replaced by a copy passed to ``touch``."""
    named = signatures.signature(function).bind_partial(*args, **kwargs)
    given = named.arguments.get(str(port.argument))
    if not isinstance(given, Tensor):
        raise InspectionError(
            f"Port '{port.where}': '{port.name}' was not given a tensor '{port.argument}'. Name "
            f"one that it was given: {', '.join(named.arguments) or 'there is none'}."
        )
    new = _touched(given, port, touch)
    for name, part in named.arguments.items():
        if part is given:  # under every name that it was given by
            named.arguments[name] = new
    return named.args, named.kwargs


def _touched(output: Any, port: Port, touch: Touch) -> Any:
    """A copy passed to ``touch``, so that the original stays unchanged; of several the first."""
    if isinstance(output, tuple | list):
        return type(output)((_touched(output[0], port, touch), *output[1:]))
    copy = output.clone()
    touch(port.view(copy))
    return copy


def _function(module: nn.Module, port: Port) -> tuple[Any, str]:
    """The object whose attribute the method or function is, and its name there."""
    *path, name = port.name.split(".")
    inner = dict(module.named_modules()).get(".".join(path))
    if inner is not None and callable(getattr(inner, name, None)):
        return inner, name
    for cls in type(module).__mro__:
        file = sys.modules.get(cls.__module__)
        if not path and callable(getattr(file, name, None)):
            return file, name
    raise InspectionError(
        f"Port '{port.where}': {type(module).__name__} has no submodule or method '{port.name}', "
        "and the file that defines its class has no such function. Name one of those."
    )
