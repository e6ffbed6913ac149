"""Small parts that several families share, from what was captured."""

from collections.abc import Callable

import torch
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


def activation(layer: Captured, name: str = "activation") -> Callable[[Tensor], Tensor]:
    """The activation the module's setting ``name`` asks for.

    Raises:
        ValueError: for an activation that is not known here.
    """
    wanted = getattr(layer.module, name)
    if wanted not in ACTIVATIONS:
        raise ValueError(
            f"{layer.name}: the activation '{wanted}' is not known to this adapter; known are "
            f"{', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[wanted]


def masked(layer: Captured, hidden: Tensor) -> Tensor:
    """``sample time width`` with padded tokens set to zero, where a 2-D padding mask came along."""
    mask = layer.arguments.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return hidden
    return hidden * mask[:, -hidden.shape[1] :].to(hidden.dtype).unsqueeze(-1)


def causal_convolution(layer: Captured, name: str, x: Tensor) -> Tensor:
    """The depthwise causal convolution ``name`` over ``sample time channel``; the last tap meets
    the current token."""
    kernel = layer.weights[f"{name}.weight"]
    padded = functional.pad(x.mT, (kernel.shape[-1] - 1, 0))
    bias = layer.weights.get(f"{name}.bias")
    return functional.conv1d(padded, kernel, bias, groups=kernel.shape[0]).mT


def rms_normalised(x: Tensor, *, epsilon: float) -> Tensor:
    """``x`` over its root mean square along the last axis."""
    return x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()


def unit_length(x: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """``x`` over its length along the last axis, with ``epsilon`` under the root."""
    return x * (x.square().sum(dim=-1, keepdim=True) + epsilon).rsqrt()
