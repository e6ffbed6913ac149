"""Copies of tensors that later code may write into, made once for each state of a tensor."""

from collections.abc import Callable
from typing import Any
from weakref import ref

from torch import Tensor

from dsf.inspection.capture.integrity import times_written

Copies = dict[int, tuple[Callable[[], Any], int, Tensor]]
"""By the identity of a tensor: a reference to it, how often it was written into, and its copy."""


def copied_once(tensor: Tensor, known: Copies) -> Tensor:
    """A copy of a tensor; the one in ``known`` if nothing was written into the tensor since."""
    original, writes, copy = known.get(id(tensor), (lambda: None, -1, tensor))
    if original() is tensor and writes == times_written(tensor):
        return copy
    copy = tensor.detach().clone()
    for gone in [at for at, (original, *_) in known.items() if original() is None]:
        del known[gone]
    known[id(tensor)] = ref(tensor), times_written(tensor), copy
    return copy
