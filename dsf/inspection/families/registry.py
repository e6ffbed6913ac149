"""The list of all adapters that read a module by hooks, and which adapter reads which module."""

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import entry_points

from torch import Size, nn

from dsf.inspection.adapter import Adapter, Structure, shapes_of
from dsf.inspection.capture.precision import class_path
from dsf.inspection.capture.weights import is_within
from dsf.inspection.errors import InspectionError
from dsf.inspection.families import (
    delta_rules,
    fla,
    recurrences,
    rwkv,
    selective_scans,
    torch_recurrent,
)
from dsf.inspection.softmax import follower

GROUP = "dsf.adapters"


@cache
def installed() -> tuple[Adapter, ...]:
    """The adapters that installed packages name under ``dsf.adapters``, looked up once."""
    adapters: list[Adapter] = []
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else point.module
        try:
            entry = point.load()
        except Exception as error:  # whatever the package does when it is imported
            raise InspectionError(
                f"{package}: its adapter '{point.name}' ({point.value}) could not be loaded: "
                f"{type(error).__name__}: {error}. Repair or uninstall that package."
            ) from error
        found = entry if isinstance(entry, tuple) else (entry,)
        if not all(isinstance(part, Adapter) for part in found):
            raise InspectionError(
                f"{package}: its entry '{point.name}' ({point.value}) must be a "
                f"dsf.inspection.Adapter or a tuple of them, but it is {type(entry).__name__}."
            )
        adapters += found
    return tuple(adapters)


Known = dict[str, tuple[Adapter, str]]

ADAPTERS: tuple[Adapter, ...] = (
    *selective_scans.ADAPTERS,
    *delta_rules.ADAPTERS,
    *recurrences.ADAPTERS,
    *rwkv.ADAPTERS,
    *fla.ADAPTERS,
    torch_recurrent.ADAPTER,
    torch_recurrent.CELLS,
    follower.MULTIHEAD,
)

STRUCTURES: tuple[Structure, ...] = (
    *selective_scans.STRUCTURES,
    *recurrences.STRUCTURES,
    *delta_rules.STRUCTURES,
    *rwkv.STRUCTURES,
)


def candidates(model: nn.Module, known: Known) -> dict[str, tuple[Structure, ...]]:
    """By its path every module that no adapter names, with the families that it may be one of."""
    found = {}
    for path, module in model.named_modules():
        if not any(is_within(other, path) for other in known):
            fitting = _fitting(tuple(shapes_of(module).items()))  # the same in equal layers
            if fitting:
                found[path] = fitting
    return found


@lru_cache(maxsize=1024)
def _fitting(shapes: tuple[tuple[str, Size], ...]) -> tuple[Structure, ...]:
    """The families of which a module with parameters of these names and shapes may be one."""
    held = dict(shapes)
    return tuple(one for one in STRUCTURES if one.sizes(held) is not None)


def known_modules(model: nn.Module, given: Sequence[Adapter] = ()) -> Known:
    """The adapter and family of every module that an adapter reads, by its path.

    The first class in a module's method resolution order that an adapter names decides. Of several
    adapters for one class, those ``given`` come first, then those of installed packages, then ours.
    """
    if not isinstance(given, Sequence) or not all(isinstance(one, Adapter) for one in given):
        raise TypeError(
            f"adapters: must be a tuple of dsf.inspection.Adapter, but it is {given!r}. A single "
            "one is passed as adapters=(MINE,)."
        )
    of_class: Known = {}
    for adapter in (*given, *installed(), *ADAPTERS):
        for path, family in adapter.families.items():
            of_class.setdefault(path, (adapter, family))
    nearest = {
        kind: next((path for path in map(class_path, kind.__mro__) if path in of_class), None)
        for kind in set(map(type, model.modules()))
    }
    named = ((name, nearest[type(module)]) for name, module in model.named_modules())
    return {name: of_class[path] for name, path in named if path is not None}
