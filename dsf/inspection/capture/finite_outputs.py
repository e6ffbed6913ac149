"""Weights of linear maps that are known to be finite by what the maps put out.

Every number of such a weight is a factor in one number of each token's output. A factor that is NaN
or infinite makes that number NaN or infinite, whatever the input is, so that one finite token shows
that all weights are finite, without a look at them. On a processor the look at all weights of a
small language model takes a twentieth of its forward pass.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from dsf.inspection.capture.integrity import times_written

LARGE = 2**19
"""The number of weights from which on two copies of a token take less time than a look at them."""


_Noted = tuple[Tensor, int, int]
"""A weight, where it lay, and how often it had been written into."""


class FiniteWeights:
    """Weights that were finite when a linear map used them; made before anything else listens."""

    def __init__(self, model: nn.Module) -> None:
        self._known: dict[int, _Noted] = {}
        self._looked: list[tuple[list[_Noted], Tensor, Tensor]] = []
        # A hook or a mode of somebody else may put another output in place of a module's own.
        alone = not (
            torch_modules._global_forward_hooks
            or torch._C._len_torch_function_stack()
            or torch._C._len_torch_dispatch_stack()
        )
        self._maps = [part for part in model.modules() if alone and _is_plain(part)]
        self._expected = {id(weight) for part in self._maps for weight in _weights(part)}

    def expects(self, weight: Tensor) -> bool:
        """Whether a run may show that a weight is finite."""
        return id(weight) in self._expected

    def __contains__(self, weight: Tensor) -> bool:
        """Whether a weight was finite, and not exchanged or written into since."""
        known = self._known.get(id(weight))
        return known is not None and known[0] is weight and known[1:] == _noted(weight)[1:]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at what the large linear maps put out inside the ``with`` block."""
        handles = [part.register_forward_hook(self._look) for part in self._maps]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for weights, entered, left in self._looked:
                # Some products leave out what is multiplied with zero.
                if bool(entered.all()) and math.isfinite(left.sum()):
                    self._known |= {id(noted[0]): noted for noted in weights}
            self._looked.clear()

    def _look(self, module: Any, given: tuple[Any, ...], output: Tensor) -> None:
        if given and output.numel() > 0:
            with torch._C.DisableTorchFunction():  # nobody listens to this
                token = _first_token(given[0]).clone(), _first_token(output).clone()
            self._looked.append(([_noted(part) for part in _weights(module)], *token))


def _first_token(part: Tensor) -> Tensor:
    return part if part.ndim == 1 else part[(0,) * (part.ndim - 1)]


def _noted(weight: Tensor) -> _Noted:
    return weight, weight.data_ptr(), times_written(weight)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module multiplies with its weight as it is, in memory that is slow to read."""
    if type(module) is not nn.Linear or "forward" in vars(module) or module._forward_hooks:
        return False
    used = _weights(module)
    plain = all(type(part) is nn.Parameter and part.device.type == "cpu" for part in used)
    return plain and module.weight.numel() >= LARGE


def _weights(module: Any) -> list[Tensor]:
    return [part for part in (module.weight, module.bias) if part is not None]
