"""A module that computes in float64 for a while, itself and not a copy of it.

What is known about a run is known by its modules, so that a copy would have to be introduced to all
of it. The weights of the module are exchanged instead, and come back as they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import free_memory
from dsf.inspection.capture.calls import Invocation
from dsf.inspection.capture.precision import in_double, in_float64
from dsf.inspection.capture.weights import packed_modules
from dsf.inspection.softmax.interface import plain_experts
from dsf.runtime.number_types import has_double

MOST = 0.5
"""The share of the free memory that the weights in float64 may take."""


def can_be_widened(module: nn.Module) -> bool:
    """Whether all weights of a module are plain numbers, and fit into memory in float64."""
    parts = _narrow(module)
    if not all(has_double(part.device) and not part.is_meta for part in parts):
        return False
    wide = sum(part.numel() for part in parts) * torch.float64.itemsize
    there = free_memory(parts[0].device) if parts else None
    return not packed_modules(module) and (there is None or wide <= MOST * there)


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """Inside, ``module`` computes in float64, whatever it asks for."""
    before = [(part, part.data) for part in _narrow(module)]
    try:
        for part, data in before:
            part.data = in_float64(data)
        with in_double(), plain_experts(module):
            yield
    finally:
        for part, data in before:
            part.data = data


def wide(invocation: Invocation) -> Invocation:
    """A forward pass as its module is called while it is widened."""
    args, kwargs = in_float64((invocation.args, invocation.kwargs))
    return replace(invocation, args=args, kwargs=kwargs)


def _narrow(module: nn.Module) -> list[Tensor]:
    parts = (*module.parameters(), *module.buffers())
    narrow = (part for part in parts if part.is_floating_point())
    return [part for part in narrow if part.dtype is not torch.float64]
