"""The work of an inspection that nothing can spare: its token mixers once more, in float64.

Two numbers for every layer need the run of the model, and its modules in float64 on what they were
given there, to compare with. Here these modules run in float64, also where their code asks for a
narrower type, and nothing else is done: nothing is rebuilt or compared. No inspection of the same
model can take less than the run and this.
"""

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dsf.inspection.capture.precision import in_double

Passes = list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


def mixers_in_float64(
    model: nn.Module, paths: Collection[str], run: Callable[[], Any]
) -> Callable[[], None]:
    """A function that runs copies of some modules in float64, as ``run`` calls them in the model.

    Copies of modules and of arguments are made here, so that they are not timed.
    """
    seen: Passes = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((module, *tree_map(_in_float64, (args, kwargs))))

    handles = [
        model.get_submodule(path).register_forward_pre_hook(keep, with_kwargs=True)
        for path in paths
    ]
    run()
    for handle in handles:
        handle.remove()
    # Only now: a copy would have the hook too.
    copies = [(copy.deepcopy(module).double(), args, kwargs) for module, args, kwargs in seen]

    def again() -> None:
        with torch.no_grad(), in_double():
            for module, args, kwargs in copies:
                module(*args, **kwargs)

    return again


def _in_float64(part: Any) -> Any:
    return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part
