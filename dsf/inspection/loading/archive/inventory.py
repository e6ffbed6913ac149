"""The tensors of a followed archive, by dotted name."""

from collections.abc import Iterator
from typing import Any

from dsf.inspection.loading.archive.symbols import Module, Refused, StoredTensor

_MOST_TENSORS = 100_000
_MOST_VISITS = 500_000
_DEEPEST = 32
_LONGEST_NAME = 1_000


def tensors_by_name(top: object) -> dict[str, StoredTensor]:
    """Every tensor reachable from ``top`` through tables, lists and module attributes.

    Raises:
        Refused: two tensors of one name, too many, too deep, or a name too long.
    """
    found: dict[str, StoredTensor] = {}
    visits = 0
    pending: list[tuple[tuple[str, ...], object]] = [((), top)]
    while pending:
        path, value = pending.pop()
        visits += 1
        if visits > _MOST_VISITS or len(found) > _MOST_TENSORS or len(path) > _DEEPEST:
            raise Refused("it holds too many tensors, or nests them too deep")
        if isinstance(value, StoredTensor):
            _add(found, ".".join(path) or "tensor", value)
        else:
            pending.extend(((*path, key), child) for key, child in _children(value))
    return dict(reversed(found.items()))


def _add(found: dict[str, StoredTensor], name: str, tensor: StoredTensor) -> None:
    if name in found or len(name) > _LONGEST_NAME:
        raise Refused(f"a name is there twice or is too long: {name[:100]!r}")
    found[name] = tensor


def _children(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Module):
        # Lists of a module only repeat its parameters under other names.
        kept = {key: child for key, child in value.attributes.items() if not _is_list(child)}
        return _items(kept)
    if isinstance(value, dict):
        return _items(value)
    if isinstance(value, list | tuple):
        return ((str(place), child) for place, child in enumerate(value))
    return iter(())


def _items(table: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    return ((str(key), child) for key, child in table.items() if isinstance(key, str | int))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | dict)
