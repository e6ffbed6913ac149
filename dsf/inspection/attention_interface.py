"""Softmax attention through the model library's public attention and mask interfaces.

One function is registered under a name of our own, together with the mask function under the same
name: without the second a causal model would silently attend to the future. The function lets the
modelling file's own eager attention do the work and records what went in and out.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dsf.inspection.hooks import Call

NAME = "dsf_recorded"
LIBRARY = "transformers."


def models_of_library(model: nn.Module) -> list[Any]:
    """The outermost modules of ``model`` that are models of the library."""
    if _belongs(model):
        return [model]
    return [found for child in model.children() for found in models_of_library(child)]


def _belongs(module: nn.Module) -> bool:
    return hasattr(module, "set_attn_implementation") and any(
        cls.__module__.startswith(LIBRARY) for cls in type(module).__mro__
    )


@contextmanager
def recording_attention(model: nn.Module, calls: list[Call]) -> Iterator[None]:
    """Append every attention call of a library model to ``calls`` while the block runs."""
    hosts = models_of_library(model)
    if not hosts:
        yield
        return
    names = {module: name for name, module in model.named_modules()}
    _register(names, calls)
    configs = _configs(model)
    before = [config._attn_implementation_internal for config in configs]
    try:
        for host in hosts:
            host.set_attn_implementation(NAME)
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


def _configs(model: nn.Module) -> list[Any]:
    """Every configuration object that says how attention is computed, sub-configurations too."""
    found: dict[int, Any] = {}
    waiting = [config for module in model.modules() if (config := getattr(module, "config", None))]
    while waiting:
        config = waiting.pop()
        if id(config) in found or not hasattr(config, "_attn_implementation_internal"):
            continue
        found[id(config)] = config
        parts = getattr(config, "sub_configs", None) or {}
        waiting += [part for name in parts if (part := getattr(config, name, None)) is not None]
    return list(found.values())


def _register(names: dict[nn.Module, str], calls: list[Call]) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    def recorded(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        eager = sys.modules[type(module).__module__].eager_attention_forward
        output = eager(module, query, key, value, attention_mask, **options)
        arguments = {"query": query, "key": key, "value": value, "attention_mask": attention_mask}
        calls.append(Call(names.get(module, "attention"), module, arguments | options, output))
        return output

    AttentionInterface.register(NAME, recorded)
    AttentionMaskInterface.register(NAME, eager_mask)
