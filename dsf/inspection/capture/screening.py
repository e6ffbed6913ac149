"""Refuses models that cannot be run or whose weights are missing, NaN or infinite."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dsf.inspection.capture.packed_weights import has_own_storage
from dsf.inspection.errors import InspectionError, NonFiniteWeightsError, NothingCapturedError

SHOWN = 5


def check_runnable(model: nn.Module, path: str = "") -> None:
    """Raise unless ``model`` can be run and all of its weights are finite.

    Args:
        model: a model, or the module of a model at ``path``.
        path: the prefix of the names of its weights.

    Raises:
        NothingCapturedError: for TorchScript, which takes no hooks.
        InspectionError: if weights have no data (on the meta device, or not initialised).
        NonFiniteWeightsError: if a weight is NaN or infinite.
    """
    check_has_data(model, path)
    check_finite(model, path)


def check_has_data(model: nn.Module, path: str = "") -> None:
    """Raise unless ``model`` takes hooks and all of its weights have data.

    Raises:
        NothingCapturedError: for TorchScript, which takes no hooks.
        InspectionError: if weights have no data.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise NothingCapturedError(
            f"the model is TorchScript ({model.original_name}), which takes no hooks, so no token "
            "mixer could be read. Build the plain module (such as torch.nn.LSTM), load this one's "
            "state_dict() into it and inspect that."
        )
    parts = _named(model, path)
    empty = [name for name, part in parts if is_lazy(part) or part.is_meta]
    if empty:
        raise InspectionError(
            f"the model has weights without data: {_listed(empty)}. They are on the meta device, "
            "as offloaded weights are, or not initialised: load the checkpoint without offloading "
            "(device_map='cpu' or none; where it does not fit into memory, on the command line "
            "--layerwise), and run a lazy module once."
        )


def check_finite(
    model: nn.Module, path: str = "", besides: Callable[[Tensor], bool] = lambda _: False
) -> None:
    """Raise unless all weights are finite.

    Args:
        besides: which of them are not looked at.

    Raises:
        NonFiniteWeightsError: if one is NaN or infinite.
    """
    _refuse_non_finite([(name, part) for name, part in _named(model, path) if not besides(part)])


def _named(model: nn.Module, path: str) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(prefix=path), *model.named_buffers(prefix=path)]


def check_open_weights(model: nn.Module) -> None:
    """Raise unless all weights that are not on the meta device are finite.

    Raises:
        NonFiniteWeightsError: if one is NaN or infinite.
    """
    parts = (*model.named_parameters(), *model.named_buffers())
    _refuse_non_finite([(name, part) for name, part in parts if not part.is_meta])


def _refuse_non_finite(parts: Iterable[tuple[str, Tensor]]) -> None:
    bad = [name for name, part in parts if "mask" not in name and not _is_finite(part)]
    if bad:
        raise NonFiniteWeightsError(
            f"the model holds weights that are NaN or infinite: {_listed(bad)}. No statement about "
            "its layers would mean anything; load another checkpoint or repair these tensors."
        )


def _is_finite(part: Tensor) -> bool:
    if not part.is_floating_point() or has_own_storage(part):
        return True  # packed weights are looked at when they are written out
    if part.dtype.itemsize == 1:  # isfinite is missing for eight-bit types
        part = part.to(torch.float32)
    # A sum is quicker than a comparison of every number, but it may itself overflow.
    return math.isfinite(part.detach().sum()) or bool(part.isfinite().all())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
