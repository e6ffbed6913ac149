"""What is refused before a model runs, because nothing said about it would mean anything."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dsf.inspection.errors import InspectionError, NonFiniteWeightsError, NothingCapturedError

SHOWN = 5


def check_runnable(model: nn.Module, path: str = "") -> None:
    """Raise unless ``model`` can be run and has weights that are numbers.

    Args:
        model: a model, or the part of one that sits at ``path``.
        path: what the names of its weights begin with.

    Raises:
        NothingCapturedError: for TorchScript, which takes no hooks.
        InspectionError: if weights are missing (on the meta device, or not made yet).
        NonFiniteWeightsError: if a weight is NaN or infinite.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise NothingCapturedError(
            f"the model is TorchScript ({model.original_name}), which takes no hooks, so no token "
            "mixer could be read. Build the plain module (such as torch.nn.LSTM), fill it with "
            "this one's state_dict() and inspect that."
        )
    parts = (*model.named_parameters(prefix=path), *model.named_buffers(prefix=path))
    empty = [name for name, part in parts if is_lazy(part) or part.is_meta]
    if empty:
        raise InspectionError(
            f"the model has weights without numbers: {_listed(empty)}. They are on the meta device "
            "or not made yet: load the checkpoint without offloading, and run a lazy module once."
        )
    _refuse_what_is_no_number(parts)


def check_open_weights(model: nn.Module) -> None:
    """Raise unless those weights that are not on the meta device are numbers.

    Raises:
        NonFiniteWeightsError: if one is NaN or infinite.
    """
    parts = (*model.named_parameters(), *model.named_buffers())
    _refuse_what_is_no_number([(name, part) for name, part in parts if not part.is_meta])


def _refuse_what_is_no_number(parts: Iterable[tuple[str, Tensor]]) -> None:
    bad = [name for name, part in parts if "mask" not in name and not _is_finite(part)]
    if bad:
        raise NonFiniteWeightsError(
            f"the model holds weights that are NaN or infinite: {_listed(bad)}. No statement about "
            "its layers would mean anything; load another checkpoint or repair these tensors."
        )


def _is_finite(part: Tensor) -> bool:
    if not part.is_floating_point():
        return True
    if part.dtype.itemsize == 1:  # eight-bit types have no test of their own
        part = part.to(torch.float32)
    return bool(part.isfinite().all())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
