"""What a run of a model depended on, so that a later call can tell whether all of it is the same.

Noted are the inputs, the weights, the modules, their hooks and their attributes. A weight is
compared by how often torch wrote into it, and by the sum of the bits of each of its rows, which
also shows writes that torch does not count, such as those through ``.data``: together they cost one
look at every number. Code is not compared, so that an exchanged method of a class is not seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import copied
from dsf.inspection.capture.integrity import times_written
from dsf.inspection.capture.packed_weights import has_own_storage
from dsf.interventions.unedited_blocks import is_same, of_its_own, traces

PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.Size)
WORD = 8
"""The bytes of the integers that are summed."""


@dataclass(frozen=True, eq=False)
class RunFacts:
    """What a run depended on.

    Attributes:
        model: the model that ran.
        adapters: how modules of the user's own were read.
        given: the tensors and plain values among the inputs, by where they stand.
        modules: what can be seen of every module but its weights, by its path.
        weights: what can be seen of every weight, by its name.
        buffers: copies of the buffers, by their names.
    """

    model: nn.Module
    adapters: tuple[Adapter, ...]
    given: Mapping[str, Any]
    modules: Mapping[str, list[Any]]
    weights: Mapping[str, list[Any]]
    buffers: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: tuple[Any, ...],
        named: Mapping[str, Any],
        adapters: Sequence[Adapter],
    ) -> "RunFacts":
        return cls(
            model,
            tuple(adapters),
            {at: copied(part) for at, part in _leaves(inputs, named).items()},
            _modules(model),
            {name: _weight(part) for name, part in model.named_parameters()},
            {name: copied(part) for name, part in model.named_buffers()},
        )

    def difference(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        named: Mapping[str, Any],
        adapters: Sequence[Adapter],
    ) -> str | None:
        """What is not the same in a run with these, in words; None if all is."""
        if model is not self.model:
            return (
                f"is a run of another {type(self.model).__name__} in memory; a model that is named "
                "by its folder is loaded anew by every call"
            )
        given = _leaves(inputs, named)
        odd = next((at for at, part in given.items() if not _can_be_compared(part)), None)
        if odd is not None:
            return f"cannot be told from a run with another {odd}: {type(given[odd]).__name__}"
        other = _first_other(self.given, given, _is_equal)
        if other is not None:
            return f"is a run with other inputs: {other} is not the same"
        if not is_same(list(self.adapters), list(adapters)):
            return "is a run with other adapters"
        other = _first_other(self.modules, _modules(model), is_same)
        if other is not None:
            return (
                f"was run before '{other}' changed: the module was exchanged, or its hooks or "
                "attributes are not the same"
            )
        weights = {name: _weight(part) for name, part in model.named_parameters()}
        other = _first_other(self.weights, weights, is_same)
        if other is None:
            other = _first_other(self.buffers, dict(model.named_buffers()), _is_equal)
        return None if other is None else f"was run before the weight '{other}' changed"


def _first_other(before: Mapping[str, Any], now: Mapping[str, Any], same: Any) -> str | None:
    """The first name whose parts differ or that only one of them has."""
    if lacking := [name for name in (*before, *now) if name not in before or name not in now]:
        return lacking[0]
    return next((name for name, part in before.items() if not same(part, now[name])), None)


def _leaves(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    positional = {f"input {number}": part for number, part in enumerate(inputs)}
    return {
        f"{name}{keystr(path)}": leaf
        for name, part in {**positional, **named}.items()
        for path, leaf in tree_flatten_with_path(part)[0]
    }


def _can_be_compared(part: Any) -> bool:
    return isinstance(part, (Tensor, *PLAIN))


def _is_equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and bool(one == other)
    alike = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
    if not alike or not one.is_floating_point():
        return alike and torch.equal(one, other)
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _modules(model: nn.Module) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        found[path or "the model"] = noted = [module, type(module), len(hooks), *hooks]
        for name, part in of_its_own(module):
            if name != "training":  # a run is made in evaluation mode
                noted += [name, *([part] if id(part) in seen else traces(part))]
                seen.add(id(part))
    return found


def _weight(part: Tensor) -> list[Any]:
    return [part, part.data_ptr(), times_written(part), part.dtype, str(part.shape), _sums(part)]


def _sums(part: Tensor) -> str:
    """A hash of the sums of the bits of all rows; empty for weights in a form of their own."""
    if has_own_storage(part) or part.numel() == 0:
        return ""
    plain = torch.view_as_real(part.detach()) if part.is_complex() else part.detach()
    rows = plain.contiguous().reshape(len(plain) if plain.ndim > 1 else 1, -1)
    width = rows.shape[1] * rows.element_size()
    if width % WORD == 0 and rows.storage_offset() * rows.element_size() % WORD == 0:
        words = rows.view(torch.int64)
    else:
        words = rows.view(_INTEGERS[rows.element_size()])
    return sha256(words.sum(dim=1, dtype=torch.int64).cpu().numpy().tobytes()).hexdigest()


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
