"""Copies of modules in float64, with packed weights written out."""

import copy
from typing import Any

import torch
from torch import nn

from dsf.inspection.capture.packed_weights import packed_modules, unpacked
from dsf.inspection.capture.precision import in_float64


def double_copy(module: nn.Module) -> nn.Module:
    """A copy with floating parameters and buffers in float64; settings are copied, too.

    It lies where the module does, or on the processor if that has no float64.

    Raises:
        UnreadableError: if it has packed weights that cannot be read through their module.
    """
    packed = packed_modules(module)
    if "" in packed:
        return unpacked(module, "")
    known: dict[int, Any] = {id(part): unpacked(part, path) for path, part in packed.items()}
    inside = {id(one) for part in packed.values() for one in (*part.parameters(), *part.buffers())}
    for part in (*module.parameters(), *module.buffers()):
        if id(part) in inside:
            continue
        wide = part.detach().to(torch.complex128) if part.is_complex() else in_float64(part)
        wide = wide.clone() if wide.data_ptr() == part.data_ptr() else wide
        is_weight = isinstance(part, nn.Parameter)
        known[id(part)] = nn.Parameter(wide, requires_grad=False) if is_weight else wide
    for each in module.modules():  # such as the product of a weight norm, which cannot be copied
        for kept in vars(each).values():
            if isinstance(kept, torch.Tensor) and not kept.is_leaf and id(kept) not in known:
                known[id(kept)] = in_float64(kept).clone()
    return copy.deepcopy(module, known)
