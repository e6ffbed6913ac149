"""What flash-linear-attention is called with for a layer of ours, where it is installed.

It is compared with, not used: its kernels multiply in TF32 or half precision, a hundred times and
more above the 1e-5 that a kernel behind ``dsf.respond`` has to keep.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dsf.mixers import GatedDeltaNet, GatedLinearAttention, Mixer, StateSpaceDuality


class Call(NamedTuple):
    """A function of the library, by module and name, and its arguments: ``batch time head ...``."""

    module: str
    name: str
    arguments: dict[str, Any]

    @property
    def function(self) -> Any:
        """The library's function."""
        return getattr(import_module(self.module), self.name)


def call(mixer: Mixer) -> Call | None:
    """How the library computes what this layer does; None if it has nothing of the kind."""

    def by_token(**parts: Tensor) -> dict[str, Any]:
        turned = {name: part.movedim(1, 2).contiguous() for name, part in parts.items()}
        return {**turned, "scale": 1.0}

    if isinstance(mixer, GatedDeltaNet):
        parts = by_token(
            q=mixer.query, k=mixer.key, v=mixer.value, g=mixer.log_decay, beta=mixer.rate
        )
        return Call("fla.ops.gated_delta_rule", "chunk_gated_delta_rule", parts)
    if isinstance(mixer, GatedLinearAttention):
        parts = by_token(q=mixer.query, k=mixer.key, v=mixer.value, g=mixer.log_decay)
        return Call("fla.ops.gla", "chunk_gla", parts)
    if isinstance(mixer, StateSpaceDuality):
        heads = mixer.value.shape[1]
        parts = by_token(
            q=mixer.read.expand(-1, heads, -1, -1),
            k=mixer.write.expand(-1, heads, -1, -1),
            v=mixer.step.unsqueeze(-1) * mixer.value,
            g=mixer.step * mixer.pole[:, None],
        )
        return Call("fla.ops.simple_gla", "chunk_simple_gla", parts)
    return None


def works(mixer: Mixer) -> dict[str, Callable[[], Tensor]]:
    """The library's way in single and in half precision; empty where it is not installed."""
    made = call(mixer)
    if made is None or find_spec("fla") is None:
        return {}
    skip = mixer.feedthrough if isinstance(mixer, StateSpaceDuality) else None

    def run(dtype: torch.dtype) -> Tensor:
        arguments = {
            name: part.to(dtype) if isinstance(part, Tensor) and name != "g" else part
            for name, part in made.arguments.items()
        }
        found = made.function(**arguments)[0].movedim(1, 2)
        return found if skip is None else found + skip[:, None, None] * mixer.signal().squeeze(-2)

    return {"fla": lambda: run(torch.float32), "fla, bfloat16": lambda: run(torch.bfloat16)}
