"""Small parts that several families share, from what was captured."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dsf.inspection.captured import Captured

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


def activation(layer: Captured, part: str = "") -> Callable[[Tensor], Tensor]:
    """The activation that the module, or its submodule ``part``, is set to; SiLU where no choice
    is offered.

    Raises:
        ValueError: for an activation that is not known here.
    """
    wanted = getattr(layer.module.get_submodule(part), "activation", "silu")
    if wanted not in ACTIVATIONS:
        raise ValueError(
            f"{layer.name}: the activation '{wanted}' is not known to this adapter; known are "
            f"{', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[wanted]


def masked(layer: Captured, x: Tensor) -> Tensor:
    """``sample time width`` with padded tokens set to zero, where a 2-D padding mask came along."""
    mask = layer.arguments.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return x
    return x * mask[:, -x.shape[1] :].to(x.dtype).unsqueeze(-1)


def causal_convolution(layer: Captured, name: str, x: Tensor) -> Tensor:
    """The depthwise causal convolution ``name`` over ``sample time channel``; the last tap meets
    the current token."""
    kernel = layer.weights[f"{name}.weight"].squeeze(1)
    steps, taps = x.shape[1], kernel.shape[-1]
    padded = functional.pad(x, (0, 0, taps - 1, 0))
    convolved = torch.zeros_like(x)
    for tap in range(taps):
        convolved += padded[:, tap : tap + steps] * kernel[:, tap]
    bias = layer.weights.get(f"{name}.bias")
    return convolved if bias is None else convolved + bias


def rms_normalised(x: Tensor, *, epsilon: float) -> Tensor:
    """``x`` over its root mean square along the last axis."""
    return x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()


def epsilon_of(norm: Any) -> float:
    """What a norm adds under its root, by either name."""
    return getattr(norm, "variance_epsilon", None) or norm.eps


def unit_length(x: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """``x`` over its length along the last axis, with ``epsilon`` under the root."""
    return x * (x.square().sum(dim=-1, keepdim=True) + epsilon).rsqrt()


def by_head(x: Tensor, heads: int) -> Tensor:
    """``sample time (head channel)`` as ``sample head time channel``."""
    return rearrange(x, "sample time (head channel) -> sample head time channel", head=heads)


def side_by_side(x: Tensor) -> Tensor:
    """The inverse of ``by_head``."""
    return rearrange(x, "sample head time channel -> sample time (head channel)")
