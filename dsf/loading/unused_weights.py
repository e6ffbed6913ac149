"""Weights in the files that the model has no place for: which would have changed its output.

Heads of another task and whole parts that a class leaves out may stay behind. A trained weight
inside a part that the model has is something else: without it, the model computes another function
than the one that was trained.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dsf.loading.errors import LoadError, listed

_COMPUTED = {"inv_freq", "original_inv_freq", "masked_bias", "position_ids", "version"}
"""Numbers that models once saved and that are computed today."""
_ON_PURPOSE = (
    "To look at a part of a model on purpose, build it with transformers and pass the module."
)


def check_unused(
    model: nn.Module,
    config: Any,
    unused: Iterable[str],
    read: Callable[[str], Tensor],
    where: str,
) -> None:
    """Raise if a weight without a place belongs to a part that the model has.

    Args:
        model: as it was built, with or without its weights.
        unused: names in the files that the model does not use.
        read: gives the tensor of a name.

    Raises:
        LoadError: there are more layers in the files than in the settings, or a trained weight of a
            module that the model has.
    """
    further: dict[str, tuple[int, int]] = {}
    extra = []
    for name in sorted(unused):
        path, module, rest = _reached(model, name)
        if not path:
            continue
        if isinstance(module, nn.ModuleList) and rest[0].isascii() and rest[0].isdecimal():
            if int(rest[0]) >= len(module) + _predicting_ahead(config):
                _, most = further.get(path, (0, 0))
                further[path] = len(module), max(most, int(rest[0]) + 1)
        elif not _is_computed(module, rest, read(name)):
            extra.append(name)
    for path, (held, count) in further.items():
        raise LoadError(
            f"{where}: config.json asks for {held} entries of {path}, but the files hold weights "
            f"of {count}, so that the model would be cut short; use the config.json that belongs "
            f"to these weights. {_ON_PURPOSE}"
        )
    if extra:
        raise LoadError(
            f"{where}: {listed(extra)}: {type(model).__name__} with these settings does not use "
            "such weights, so it would compute something else than the model that was saved; use "
            f"the config.json that belongs to these weights. {_ON_PURPOSE}"
        )


def named_unused(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Which names in the files no weight of a model bears, but for those that its class expects."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    own = model.state_dict().keys()
    return [
        name
        for name in names
        if name not in own and not any(re.search(pattern, name) for pattern in patterns)
    ]


def _reached(model: nn.Module, name: str) -> tuple[str, nn.Module, list[str]]:
    """The innermost module on the way to a weight, and the rest of the way.

    The path is empty where the model, with its base model, lacks the whole part. Names may stand
    with the name of the base model in front or without it.
    """
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, None) if prefix else None
    parts = name.split(".")
    plain = parts[1:] if prefix and parts[0] == prefix else parts
    ways: list[tuple[str, nn.Module, list[str]]] = [("", model, parts), ("", model, plain)]
    if isinstance(base, nn.Module):
        ways.append((f"{prefix}.", base, plain))
    found: tuple[str, nn.Module, list[str]] = ("", model, parts)
    for start, root, way in ways:
        module, path, rest = root, "", way
        while rest and isinstance(below := module._modules.get(rest[0]), nn.Module):
            module, path, rest = below, f"{path}{rest[0]}.", rest[1:]
        if rest and path and module is not base and len(start + path) > len(found[0]):
            found = ((start + path).removesuffix("."), module, rest)
    return found


def _predicting_ahead(config: Any) -> int:
    """Layers behind the last that only predict further tokens ahead, which no class here has."""
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(inner, "num_nextn_predict_layers", 0)
    return count if isinstance(count, int) else 0


def _is_computed(module: nn.Module, rest: list[str], tensor: Tensor) -> bool:
    """Whether the numbers are a mask, places or frequencies, and no trained weights."""
    if rest[-1] in _COMPUTED or not tensor.is_floating_point():
        return True
    if len(rest) == 1 and rest[0] in module._non_persistent_buffers_set:
        return True
    return is_causal_mask(tensor)


def is_causal_mask(tensor: Tensor) -> bool:
    """Whether ones stand at and below the diagonal, and zeros above."""
    square = tensor.ndim >= 2 and tensor.shape[-1] == tensor.shape[-2] > 1
    return square and bool(torch.equal(tensor, torch.ones_like(tensor).tril()))
