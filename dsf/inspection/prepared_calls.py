"""Modules whose hooks exchange what they are called with before ``forward`` sees it."""

from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.capture.calls import Call, bound
from dsf.inspection.capture.double_copies import double_copy
from dsf.inspection.capture.precision import in_double, in_float64
from dsf.inspection.errors import UnreadableError

ROUNDING = 1e-12
"""What may move by rounding in float64, relative."""


class _PreparedError(Exception):
    """Ends a forward pass before it begins, when its hooks have run."""


def check_tokens_stay_apart(call: Call, takes: str) -> None:
    """Raise if hooks of a module mix tokens before its ``forward``, which is what a map is of.

    Args:
        takes: the name of the argument that holds the tokens, ``sample time channel``.

    Raises:
        UnreadableError: if so, or if that cannot be told.
    """
    invocation = call.invocation
    if invocation is None or not invocation.is_prepared:
        return
    args, kwargs = in_float64((invocation.args, invocation.kwargs))
    tokens = bound(call.module.forward, args, kwargs).get(takes)
    twin = double_copy(call.module)
    if not isinstance(tokens, Tensor) or tokens.ndim < 3 or tokens.shape[1] < 2:
        return
    before = _prepared(twin, args, kwargs).get(takes)
    place = tokens.shape[1] // 2
    new = tokens.clone()
    new[:, place] += tokens.abs().mean() + 1
    swap = {id(tokens): new}
    args = tuple(swap.get(id(part), part) for part in args)
    kwargs = {name: swap.get(id(part), part) for name, part in kwargs.items()}
    after = _prepared(twin, args, kwargs).get(takes)
    if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == tokens.shape:
        moved = (after - before).abs()
        moved[:, place] = 0
        if moved.max() <= ROUNDING * before.abs().max():
            return
    raise UnreadableError(
        f"{call.name}: hooks mix tokens before its forward pass is given them, so that the map of "
        "the module is only a part of what it does to tokens. Inspect the model without these "
        "hooks, or pass probe=... with the path of the module"
    )


def _prepared(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the hooks of a module make of what it is called with, by the names of arguments."""
    found: dict[str, Any] = {}

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.update(bound(module.forward, args, kwargs))
        raise _PreparedError

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad(), in_double():
            module(*args, **kwargs)
    except _PreparedError:
        return found
    finally:
        handle.remove()
    return found
