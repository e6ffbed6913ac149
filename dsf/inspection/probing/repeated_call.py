"""A call of a module as a tape: in float64 where it runs so, else in the module's number type."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.capture.calls import Captured, tensors_in
from dsf.inspection.capture.double_copies import double_copy
from dsf.inspection.capture.precision import dtype_of, in_double
from dsf.inspection.causal.coordinates import Coordinates, Source, numbered
from dsf.inspection.errors import UnreadableError
from dsf.inspection.probing.driven_module import as_called
from dsf.inspection.probing.tape import Record, Tape
from dsf.inspection.probing.unit_values import ROUNDING

ROUNDINGS = 256
"""So many units of the last place of a number type count as rounding."""
Given = list[Coordinates | None]
Found = TypeVar("Found")


def recorded(layer: Captured, told: Collection[Source] = ()) -> tuple[Tape, Record, float]:
    """A call that can be repeated, its operations, and what counts as rounding in it, relative.

    Args:
        told: as for ``Tape.recorded``.
    """
    return taped(layer, lambda tape, given, _: tape.recorded(given, told=told))


def taped(
    layer: Captured, work: Callable[[Tape, Given, float], Found]
) -> tuple[Tape, Found, float]:
    """A call that can be repeated, what was found of it, and what counts as rounding, relative.

    Args:
        work: is given the tape, the coordinates of its tensors, and what counts as rounding.
    """
    module, made_of = layer.module, layer.made_of
    args, kwargs = as_called(module, dict(layer.arguments))
    known = {
        id(tensor): made
        for name, part in layer.arguments.items()
        for tensor, made in zip(tensors_in(part), made_of.get(name, []), strict=False)
    }
    try:
        tape = Tape(double_copy(module), args, kwargs, guard=in_double)
        return tape, work(tape, _given(tape, known), ROUNDING), ROUNDING
    except UnreadableError:
        raise
    except Exception as error:  # whatever the code of a module does in float64
        if is_out_of_memory(error):
            raise
    kind = dtype_of(module)
    leaves, tree = tree_flatten((args, kwargs))
    cast = {id(leaf): _cast(leaf, kind) for leaf in leaves}  # one tensor in two places stays one
    own = [cast[id(leaf)] for leaf in leaves]
    known |= {
        id(new): known[id(old)] for new, old in zip(own, leaves, strict=True) if id(old) in known
    }
    args, kwargs = tree_unflatten(own, tree)
    tape, rounding = Tape(module, args, kwargs), ROUNDINGS * torch.finfo(kind).eps
    return tape, work(tape, _given(tape, known), rounding), rounding


def _given(tape: Tape, known: Mapping[int, Coordinates | None]) -> Given:
    return [
        known.get(id(tensor)) or numbered(tensor, f"input {place}")
        for place, tensor in enumerate(tape.tensors)
    ]


def _cast(leaf: Any, kind: torch.dtype) -> Any:
    is_wide = isinstance(leaf, Tensor) and leaf.dtype is torch.float64
    return leaf.to(kind) if is_wide else leaf
