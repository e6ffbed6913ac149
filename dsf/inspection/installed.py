"""Adapters that other packages bring along under the entry point group ``dsf.adapters``."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from dsf.inspection.adapter import Adapter
from dsf.inspection.errors import InspectionError

GROUP = "dsf.adapters"


@cache
def installed() -> tuple[Adapter, ...]:
    """The adapters of every installed package, looked up once.

    Raises:
        InspectionError: if a package's entry cannot be loaded or is something else.
    """
    return tuple(adapter for point in entry_points(group=GROUP) for adapter in _loaded(point))


def _loaded(point: EntryPoint) -> tuple[Adapter, ...]:
    try:
        entry = point.load()
    except Exception as error:  # whatever the package does when it is imported
        raise InspectionError(
            f"{_package(point)}: its adapter '{point.name}' ({point.value}) could not be loaded: "
            f"{type(error).__name__}: {error}. Repair or uninstall that package."
        ) from error
    found = entry if isinstance(entry, tuple) else (entry,)
    if not all(isinstance(part, Adapter) for part in found):
        raise InspectionError(
            f"{_package(point)}: its entry '{point.name}' ({point.value}) must be a "
            f"dsf.inspection.Adapter or a tuple of them, but it is {type(entry).__name__}."
        )
    return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
