"""Caches of keys, values and states: models write into them, so every run is given its own."""

import copy
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dsf.inspection.errors import InspectionError

NAME = "Cache"


def lent(given: Any) -> Any:
    """Inputs of a model as a run may have them, which writes into caches and lists of states.

    Tensors that are inputs themselves stay those of the caller.

    Raises:
        InspectionError: if an object among them cannot be copied.
    """
    known: dict[int, Any] = {}
    if isinstance(given, dict):
        return {name: _lent(part, known) for name, part in given.items()}
    return tuple(_lent(part, known) for part in given)


def _lent(part: Any, known: dict[int, Any], *, inside: bool = False) -> Any:
    if isinstance(part, Tensor):
        return _cloned_once(part, known) if inside else part
    if type(part) in (tuple, list):
        return type(part)(_lent(each, known, inside=True) for each in part)
    if type(part) is dict:
        return {name: _lent(each, known, inside=True) for name, each in part.items()}
    if not hasattr(part, "__dict__") or isinstance(part, PackedSequence | nn.Module | type):
        return part
    held = _tensors_held(part, set())
    for each in held:
        _cloned_once(each, known)
    try:
        return copy.deepcopy(part, known)
    except Exception as error:
        if not held:
            return part
        raise InspectionError(
            f"an input of the type {type(part).__name__} cannot be copied ({error}), so that every "
            "run would start from what the one before left in it."
        ) from error


def _cloned_once(tensor: Tensor, known: dict[int, Any]) -> Tensor:
    if id(tensor) not in known:
        known[id(tensor)] = tensor.detach().clone()
    found: Tensor = known[id(tensor)]
    return found


def _tensors_held(part: Any, seen: set[int]) -> list[Tensor]:
    """The tensors in the attributes of an object, and in those of what they hold."""
    if isinstance(part, Tensor):
        return [part]
    if id(part) in seen or isinstance(part, nn.Module | type):
        return []
    seen.add(id(part))
    if isinstance(part, Mapping):
        inside = list(part.values())
    elif isinstance(part, tuple | list):
        inside = list(part)
    else:
        inside = list(vars(part).values()) if hasattr(part, "__dict__") else []
    return [each for one in inside for each in _tensors_held(one, seen)]


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of a model library: an object of its own, of such a name.

    So is a dictionary of its own by which layers share keys and values.
    """
    if isinstance(value, UserDict):
        return True
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
    if isinstance(value, Tensor):
        return value
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
