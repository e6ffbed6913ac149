"""Which layers and heads of a model are looked at: numbers, names, patterns and slices."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from dsf.inspection.errors import InspectionError, listed

Chosen = int | str | slice | Sequence[int | str | slice] | None
SHOWN = 6
INTEGER = re.compile(r"-?[0-9]{1,40}")
"""A number that is typed; Python reads no longer ones than a few thousand digits."""


def chosen_layers(names: Sequence[str], wanted: Chosen, *, order: str = "") -> set[str]:
    """The names of the layers that are wanted; ``order`` says what else they are ordered by."""
    if wanted is None:
        return set(names)
    found: set[str] = set()
    for each in _several("layers", wanted):
        matching = _matching(names, each)
        if not matching:
            numbered = [f"{k} {name}" for k, name in enumerate(names)]
            raise InspectionError(
                f"layers: {_written(each)!r} is none of the {len(names)} layers, which are {order}"
                f"{listed(numbered, SHOWN)}. Give numbers, slices, names or patterns such as "
                "'*.0.*'."
            )
        found.update(matching)
    return found


def each_chosen(wanted: Chosen) -> list[int | str | slice]:
    """What is wanted, one by one; all layers as one slice."""
    return [slice(None)] if wanted is None else list(_several("layers", wanted))


def written(wanted: Chosen) -> list[int | str] | None:
    """A choice as it is stored in JSON: slices as text, such as ``0:4``; None for all.

    >>> written([2, slice(0, 4), "*.mixer"])
    [2, '0:4', '*.mixer']
    """
    return None if wanted is None else [*map(_written, _several("", wanted))]


def _written(each: int | str | slice) -> int | str:
    if not isinstance(each, slice):
        return each
    bounds = ["" if part is None else str(part) for part in (each.start, each.stop)]
    return ":".join(bounds if each.step is None else [*bounds, str(each.step)])


def chosen_heads(owner: str, count: int, wanted: Chosen) -> tuple[int, ...] | None:
    """The numbers of the heads that are wanted of ``count``, in order; None for all."""
    if wanted is None:
        return None
    found: dict[int, None] = {}
    for each in _several("heads", wanted):
        if isinstance(each, str):
            raise TypeError(f"heads: must be numbers or slices, but one is {each!r}.")
        numbers = _numbers(count, each)
        if not numbers:
            raise InspectionError(
                f"heads: {_written(each)!r} is none of the {count} of {owner}, which are numbered "
                f"from 0 to {count - 1}."
            )
        found.update(dict.fromkeys(numbers))
    return tuple(sorted(found))


def parsed(text: str) -> list[int | str | slice]:
    """What a person types: ``0:4``, ``2,5``, ``*.self_attn`` or several with commas between.

    >>> parsed("0:4,-1,*.mixer")
    [slice(0, 4, None), -1, '*.mixer']
    """
    found: list[int | str | slice] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        bounds = word.split(":")
        if len(bounds) in (2, 3) and all(not part or INTEGER.fullmatch(part) for part in bounds):
            found.append(slice(*(int(part) if part else None for part in bounds)))
        else:
            found.append(int(word) if INTEGER.fullmatch(word) else word)
    return found


def _several(name: str, wanted: Any) -> Iterable[int | str | slice]:
    wanted = wanted.tolist() if hasattr(wanted, "tolist") else wanted  # of NumPy or torch
    is_one = isinstance(wanted, str) or not isinstance(wanted, Sequence | set | range)
    several = [wanted] if is_one else wanted
    several = tuple(each.item() if hasattr(each, "item") else each for each in several)
    odd = [x for x in several if isinstance(x, bool) or not isinstance(x, int | str | slice)]
    if odd or not several:
        what = repr(odd[0]) if odd else "nothing"
        raise TypeError(f"{name}: must be numbers, names or slices, but it has {what}.")
    if any(isinstance(each, slice) and each.step == 0 for each in several):
        raise ValueError(f"{name}: the step of a slice is 0; give one such as 2, or none.")
    return several


def _matching(names: Sequence[str], wanted: int | str | slice) -> list[str]:
    if not isinstance(wanted, str):
        return [names[k] for k in _numbers(len(names), wanted)]
    inside = (f"{wanted}.", f"{wanted}[", f"{wanted} (")
    within = [name for name in names if name == wanted or name.startswith(inside)]
    return within or [name for name in names if fnmatchcase(name, wanted)]


def _numbers(count: int, wanted: int | slice) -> list[int]:
    if isinstance(wanted, slice):
        return list(range(count)[wanted])
    return [wanted % count] if -count <= wanted < count else []
