"""The linear part of a torch function on this run, and what it adds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, vmap

Linear = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """A torch function, what it was called with, and what it put out."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def pieces(call: Call, streams: Sequence[Tensor]) -> Iterator[tuple[Tensor, Linear, Tensor | None]]:
    """Every tensor that was put out, how it depends on ``streams``, and what is added.

    The function is affine in ``streams`` together; its other arguments are held as they were.
    """

    def again(*given: Tensor) -> Any:
        put = dict(zip(map(id, streams), given, strict=True))
        return call.func(*_with(call.args, put), **_with(call.kwargs, put))

    still = again(*(torch.zeros_like(part) for part in streams))
    if isinstance(call.output, Tensor):
        yield call.output, _linear(again, still), _unless_zero(still)
        return
    for k, each in enumerate(call.output):
        part = partial(_part_of, again, k)
        yield each, _linear(part, still[k]), _unless_zero(still[k])


def secant(
    value: Shaped[Tensor, "*axes"], given: Shaped[Tensor, "*axes"]
) -> Callable[[Tensor], Tensor]:
    """The factor that makes ``value`` of ``given``, entry by entry; both are zero together."""
    factor = torch.where(given == 0, 0, value / torch.where(given == 0, 1, given))
    return lambda x: x * factor


def smallest(
    value: Shaped[Tensor, "*axes output"], given: Shaped[Tensor, "*axes width"]
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """The smallest matrix that makes ``value`` of ``given``, token by token: ``v gᵀ / |g|²``.

    Where ``given`` is zero nothing is linear, and the value is what is added.
    """
    square = given.square().sum(dim=-1, keepdim=True)
    along = given / torch.where(square == 0, 1, square)
    rest = torch.where(square == 0, value, 0)
    return lambda x: value * (x * along).sum(dim=-1, keepdim=True), _unless_zero(rest)


def tensors_in(part: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dictionaries."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple | list):
        for each in part:
            yield from tensors_in(each)
    elif isinstance(part, Mapping):
        for each in part.values():
            yield from tensors_in(each)


def _part_of(call: Callable[..., Any], k: int, *given: Tensor) -> Tensor:
    part: Tensor = call(*given)[k]
    return part


def _linear(call: Callable[..., Tensor], still: Tensor) -> Linear:
    adds = bool(still.any())

    def linear(*given: Tensor) -> Tensor:
        result = vmap(call)(*given)
        return result - still if adds else result

    return linear


def _unless_zero(part: Tensor) -> Tensor | None:
    return part if bool(part.any()) else None


def _with(part: Any, put: Mapping[int, Tensor]) -> Any:
    """``part`` with some tensors exchanged for others."""
    if isinstance(part, Tensor):
        return put.get(id(part), part)
    if type(part) in (tuple, list):
        return type(part)(_with(each, put) for each in part)
    if type(part) is dict:
        return {name: _with(each, put) for name, each in part.items()}
    return part
