"""Weights that a module makes of others when it runs: parametrisations, weight norms and such."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from dsf.inspection.capture.double_copies import double_copy
from dsf.inspection.capture.precision import in_double, in_float64


def made_weights(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """By the path of such a weight the module that makes it, and what that calls it."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for path, part in module.named_modules():
        names = list(part.parametrizations) if is_parametrized(part) else []
        for name in (*names, *(hook.name for hook in _makers(part))):
            found[f"{path}.{name}" if path else name] = part, name
    return found


@torch.no_grad()
def made_weight(module: nn.Module, name: str) -> Tensor:
    """The weight as the module makes it in float64."""
    twin = double_copy(module)
    with in_double():
        for hook in _makers(twin):
            if hook.name == name:
                is_spectral = hasattr(hook, "n_power_iterations")
                once = {"do_power_iteration": False} if is_spectral else {}
                return in_float64(hook.compute_weight(twin, **once))
        return in_float64(getattr(twin, name))


def _makers(module: nn.Module) -> list[Any]:
    """The hooks of torch's older weight norm and spectral norm, which make a weight each."""
    hooks = module._forward_pre_hooks.values()
    return [one for one in hooks if hasattr(one, "compute_weight") and hasattr(one, "name")]
