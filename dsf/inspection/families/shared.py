"""Projections, convolutions, masks, norms and activations that the adapters of families share.

What a cache of the model library holds of earlier tokens: convolved inputs and states.

Layers of the same library that continue a cache start from these. Releases whose caches are kept in
another way are not read: their layers are refused, since they do not start from rest.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.containers import is_cache
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.whole.stages import Filter, Project, Scale


def convolved_before(layer: Captured, channels: slice, taps: int) -> Tensor | None:
    """The inputs of a convolution before the first token, ``sample before width``, the latest last.

    None where the layer continues no cache.
    """
    held = _asked(layer, "get_conv_state")
    if held is None or taps < 2:
        return None
    return held.mT[..., -(taps - 1) :, channels]


def gated_before(layer: Captured, taps: int) -> Tensor | None:
    """The inputs that a convolution holds of earlier tokens, ``sample channel taps``."""
    held = _asked(layer, "get_conv_state")
    return None if held is None else held[..., -taps:]


def state_before(layer: Captured, question: str = "get_recurrent_state") -> Tensor | None:
    """The recurrent state before the first token, as the cache lays it out; None from rest.

    Args:
        question: the method of the cache that returns the state of a layer.
    """
    return _asked(layer, question)


def _asked(layer: Captured, question: str) -> Tensor | None:
    cache = next((part for part in layer.arguments.values() if is_cache(part)), None)
    place = getattr(layer.module, "layer_idx", None)
    if place is None or not hasattr(cache, question):
        return None
    held = getattr(cache, question)(place)
    return in_float64(held) if isinstance(held, Tensor) else None


LONE_PADDING = (
    "Releases of transformers before 5.16 let padding through in a batch of one: leave it out, or "
    "upgrade transformers."
)

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
    """The activation of the module or of its submodule ``part``; SiLU where it has no setting.

    Raises:
        ValueError: if the activation is not listed in ``ACTIVATIONS``.
    """
    wanted = getattr(layer.module.get_submodule(part), "activation", "silu")
    if wanted not in ACTIVATIONS:
        raise ValueError(
            f"{layer.name}: the activation '{wanted}' is not known to this adapter; known are "
            f"{', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[wanted]


def masked(layer: Captured, x: Tensor) -> Tensor:
    """``x``, ``sample time width``, with padding tokens set to zero if there is a 2-D mask."""
    for stage in masking(layer, x):
        x = stage(x)
    return x


def masking(layer: Captured, like: Tensor) -> tuple[Scale, ...]:
    """A stage that sets padding tokens to zero, if there is a 2-D padding mask; else no stage.

    Args:
        like: ``sample time width``, which gives the dtype; its tokens are the last of the mask.
    """
    mask = layer.arguments.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return ()
    return (Scale(mask[:, -like.shape[1] :].to(like.dtype).unsqueeze(-1)),)


def some_rows(layer: Captured, name: str, pick: Callable[[Tensor], Tensor]) -> Project:
    """The projection ``name``, limited to those outputs that ``pick`` takes along the last axis."""
    whole = layer.projection(name)
    return Project(pick(whole.weight.mT).mT, None if whole.bias is None else pick(whole.bias))


def convolution(layer: Captured, name: str, channels: slice = slice(None)) -> Filter:
    """The depthwise causal convolution ``name``, or some of its channels.

    Its last tap multiplies the current token. A layer that continues a cache convolves the inputs
    that it holds of earlier tokens, too.
    """
    bias = layer.weights.get(f"{name}.bias")
    kernel = layer.weights[f"{name}.weight"].squeeze(1)
    earlier = convolved_before(layer, channels, kernel.shape[-1])
    return Filter(kernel[channels], None if bias is None else bias[channels], earlier=earlier)


def rms_normalised(x: Tensor, *, epsilon: float) -> Tensor:
    """``x`` divided by its root mean square along the last axis."""
    return x * rms_factor(x, epsilon=epsilon)


def rms_factor(x: Tensor, *, epsilon: float) -> Tensor:
    """One over the root mean square along the last axis, which stays with size one."""
    return (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()


def epsilon_of(norm: Any) -> float:
    """The epsilon that a norm adds under its root, by either attribute name."""
    return getattr(norm, "variance_epsilon", None) or norm.eps


UNIT_EPSILON = 1e-6


def unit_length(x: Tensor, *, epsilon: float = UNIT_EPSILON) -> Tensor:
    """``x`` divided by its length along the last axis, with ``epsilon`` under the root."""
    return x * (x.square().sum(dim=-1, keepdim=True) + epsilon).rsqrt()


def earlier(x: Tensor) -> Tensor:
    """Every token's predecessor, ``sample time width``; zero for the first."""
    return functional.pad(x, (0, 0, 1, -1))


def group_normalised(layer: Captured, name: str, x: Tensor, *, heads: int) -> Tensor:
    """``x``, ``sample time width``, through the group norm ``name`` with a group for every head."""
    split = x.unflatten(-1, (heads, -1))
    spread = split.var(dim=-1, correction=0, keepdim=True)
    epsilon = epsilon_of(layer.module.get_submodule(name))
    flat = ((split - split.mean(dim=-1, keepdim=True)) * (spread + epsilon).rsqrt()).flatten(-2)
    weight, bias = (layer.weights.get(f"{name}.{part}") for part in ("weight", "bias"))
    flat = flat if weight is None else weight * flat
    return flat if bias is None else flat + bias


def by_head(x: Tensor, heads: int) -> Tensor:
    """``sample time (head channel)`` split into ``sample head time channel``."""
    return rearrange(x, "sample time (head channel) -> sample head time channel", head=heads)


def side_by_side(x: Tensor) -> Tensor:
    """The inverse of ``by_head``."""
    return rearrange(x, "sample head time channel -> sample time (head channel)")
