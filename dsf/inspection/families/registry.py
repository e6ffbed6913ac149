"""The adapters that read a module at its boundary: the only list, and which one reads what."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.environment import class_path
from dsf.inspection.errors import InspectionError
from dsf.inspection.families import (
    fla_delta,
    fla_linear,
    gated_delta,
    kimi_delta,
    lfm,
    lfm_vision,
    mamba,
    mamba2,
    minimax,
    recurrent_gemma,
    rwkv,
    torch_recurrent,
    xlstm,
    zamba,
)
from dsf.inspection.softmax import torch_module

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


Known = dict[str, tuple[Adapter, str]]

ADAPTERS: tuple[Adapter, ...] = (
    mamba.ADAPTER,
    zamba.ADAPTER,
    mamba2.ADAPTER,
    gated_delta.ADAPTER,
    kimi_delta.ADAPTER,
    recurrent_gemma.ADAPTER,
    rwkv.ADAPTER,
    xlstm.ADAPTER,
    minimax.ADAPTER,
    lfm.ADAPTER,
    fla_linear.ADAPTER,
    fla_delta.ADAPTER,
    lfm_vision.ADAPTER,
    torch_recurrent.ADAPTER,
    torch_recurrent.CELLS,
    torch_module.ADAPTER,
)


def known_modules(model: nn.Module, given: Sequence[Adapter] = ()) -> Known:
    """Where the modules sit that an adapter reads at their boundary, with it and the family.

    The class nearest to a module's own decides; for one class ``given`` come first, then the
    adapters of installed packages, then ours.

    Raises:
        TypeError: if ``given`` holds something else.
        InspectionError: if an installed package brings an adapter that is broken.
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
    found = {}
    for name, module in model.named_modules():
        paths = [class_path(cls) for cls in type(module).__mro__]
        nearest = next((path for path in paths if path in of_class), None)
        if nearest is not None:
            found[name] = of_class[nearest]
    return found
