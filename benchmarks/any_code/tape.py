"""``Tape``: all operations of a run of torch, numbered, to look at them and to replace one.

Nothing here is shared with dsf: what it says about a model is judged by other means than its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation that ran: its number, and copies of the numbers it was given and put out."""

    number: int
    name: str
    given: dict[int, Tensor]
    output: dict[int, Tensor]


@dataclass(eq=False)
class Tape(TorchDispatchMode):
    """Counts the operations of a run.

    Attributes:
        sizes: of how many elements the tensors are of which copies are kept.
        replaced: by the number of an operation and the place of a tensor in its arguments the
            tensor that it is given instead.
        held: by the number of an operation what it puts out instead.
        watched: numbers of operations of which everything is kept, whatever its size.
    """

    sizes: Collection[int] = ()
    replaced: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    held: Mapping[int, Mapping[int, Tensor]] = field(default_factory=dict)
    watched: Collection[int] = ()

    def __post_init__(self) -> None:
        super().__init__()
        self.count = 0
        self.operations: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        number, self.count = self.count, self.count + 1
        plain = args
        leaves, tree = tree_flatten((args, kwargs or {}))
        given = {}
        for place, leaf in enumerate(leaves):
            if (number, place) in self.replaced and isinstance(leaf, Tensor):
                leaves[place] = _laid_out_like(leaf, self.replaced[number, place])
            if self._wanted(number, leaf):
                given[place] = leaves[place].detach().clone()
        args, kwargs = tree_unflatten(leaves, tree)
        out = func(*args, **kwargs)
        if number in self.watched and (number, 0) in self.replaced and func._schema.name in NORMS:
            out = (normed(func._schema.name, args, plain[0]), *out[1:])
        if number in self.held:
            out = self._with(out, self.held[number], is_in_place=func._schema.is_mutable)
        parts, _ = tree_flatten(out)
        output = {k: p.detach().clone() for k, p in enumerate(parts) if self._wanted(number, p)}
        if given or output:
            self.operations.append(Operation(number, func._schema.name, given, output))
        return out

    def _wanted(self, number: int, part: Any) -> bool:
        if not isinstance(part, Tensor) or not part.is_floating_point():
            return False
        return number in self.watched or part.numel() in self.sizes

    @staticmethod
    def _with(out: Any, held: Mapping[int, Tensor], *, is_in_place: bool) -> Any:
        leaves, tree = tree_flatten(out)
        for place, tensor in held.items():
            if is_in_place:  # code goes on with the tensor that was written into
                leaves[place].copy_(tensor.reshape(leaves[place].shape))
            else:
                leaves[place] = _laid_out_like(leaves[place], tensor)
        return tree_unflatten(leaves, tree)


NORMS = ("aten::native_group_norm", "aten::native_layer_norm", "aten::native_batch_norm")


def normed(name: str, args: Any, before: Tensor) -> Tensor:
    """A norm of other numbers by its formula in float64, with the deviation from before."""
    shape = args[0].shape
    if name == NORMS[0]:
        (_, weight, bias, samples, *_, groups, eps), per = args, (-1, *[1] * (len(shape) - 2))
        grouped, axes = (samples, groups, -1), [2]
    elif name == NORMS[1]:
        (_, per, weight, bias, eps), grouped = args, shape
        axes = list(range(len(shape) - len(per), len(shape)))
    else:
        (_, weight, bias, *_, eps), grouped, per = args, shape, (-1, *[1] * (len(shape) - 2))
        axes = [axis for axis in range(len(shape)) if axis != 1]
    new, old = (part.double().reshape(grouped) for part in (args[0], before))
    deviation = (old.var(axes, correction=0, keepdim=True) + eps).sqrt()
    out = ((new - new.mean(axes, keepdim=True)) / deviation).reshape(shape)
    out = out if weight is None else out * weight.double().reshape(per)
    out = out if bias is None else out + bias.double().reshape(per)
    return out.to(args[0].dtype)


def _laid_out_like(old: Tensor, new: Tensor) -> Tensor:
    """The numbers of ``new`` in the strides of ``old``, so that the same operations follow."""
    made = old.detach().clone()
    return made.copy_(new.reshape(old.shape))


@dataclass(frozen=True, eq=False)
class Places:
    """Where the elements of one tensor lie in another that holds the same numbers in any order.

    Attributes:
        index: for every element its place, flattened.
        sure: where no other element has nearly the same number.
    """

    index: Tensor
    sure: Tensor


ALIKE = 3e-5
"""How far equal numbers may lie apart, relative to the largest: rounding of single precision."""


def places(wanted: Tensor, found: Tensor) -> Places | None:
    """Where every element of ``wanted`` is in ``found``; None if these are other numbers."""
    wanted, found = wanted.flatten().double(), found.flatten().double()
    scale = wanted.abs().max().item()
    if scale == 0 or not torch.isfinite(found).all() or found.numel() < 2:
        return None
    limit = ALIKE * scale
    order = found.argsort()
    line = found[order]
    right = torch.searchsorted(line, wanted).clamp(1, line.numel() - 1)
    left = right - 1
    nearer = torch.where((line[right] - wanted).abs() < (line[left] - wanted).abs(), right, left)
    if ((line[nearer] - wanted).abs() > limit).any():
        return None
    gaps = line.diff()
    far = torch.full_like(gaps[:1], torch.inf)
    alone = torch.minimum(torch.cat([far, gaps]), torch.cat([gaps, far])) > 4 * limit
    hit = torch.zeros_like(alone)
    hit[nearer] = True
    if (alone & ~hit & (line.abs() > 4 * limit)).any():
        return None
    return Places(order[nearer], alone[nearer])
