"""Caches of keys, values and states: modules write into them, so every pass is given its own."""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

NAME = "Cache"


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of a model library: an object of its own, of such a name."""
    if isinstance(value, Tensor | nn.Module | type) or not hasattr(value, "__dict__"):
        return False
    return any(NAME in cls.__name__ for cls in type(value).__mro__)


def copied_cache(cache: Any, each: Callable[[Tensor], Tensor]) -> Any:
    """A cache in the state that it is in now, with ``each`` of its tensors.

    What it holds beside tensors, lists and further caches, such as a configuration, it shares.
    """
    return _copied(cache, each, {})


def own_caches(value: Any, each: Callable[[Tensor], Tensor]) -> Any:
    """Arguments with a copy of every cache among them, of ``each`` of its tensors."""
    if is_cache(value):
        return copied_cache(value, each)
    if type(value) in (tuple, list):
        return type(value)(own_caches(part, each) for part in value)
    if type(value) is dict:
        return {name: own_caches(part, each) for name, part in value.items()}
    return value


def _copied(part: Any, each: Callable[[Tensor], Tensor], known: dict[int, Any]) -> Any:
    if id(part) in known:
        return known[id(part)]
    made: Any = part
    if isinstance(part, Tensor):
        made = each(part)
    elif isinstance(part, list | tuple) and type(part) in (list, tuple):
        made = type(part)(_copied(one, each, known) for one in part)
    elif isinstance(part, dict):
        made = copy.copy(part)
        for name, one in part.items():
            made[name] = _copied(one, each, known)
    elif is_cache(part):
        made = known[id(part)] = copy.copy(part)
        for name, one in vars(part).items():
            vars(made)[name] = _copied(one, each, known)
    known[id(part)] = made
    return made
