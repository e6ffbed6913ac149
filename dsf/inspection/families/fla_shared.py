"""What layers of the ``fla`` package share: queries, keys, values, norm, gate and projection.

Source: flash-linear-attention 0.6.0, ``fla/layers``. The package removes padding before most layers
run and fills it with zeros afterwards, so that a sequence begins at its first token and padding
writes nothing into the state.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dsf.inspection.capture.calls import Captured
from dsf.inspection.errors import UnreadableError
from dsf.inspection.families.shared import (
    ACTIVATIONS,
    by_head,
    convolution,
    epsilon_of,
    masking,
    rms_factor,
)
from dsf.inspection.whole.stages import Chain, Project, Scale, Stage, secant

TOLERANCE = 1e-5
"""The kernels of fla sum in float32, whatever the dtype of the model."""

PADDED = {"hgrn", "rwkv6", "rwkv7", "simple_gla"}
"""Families that run padding through the layer: it writes nothing, but its output is not zero."""
VALUES = {"v", "i"}


def stream(layer: Captured, part: str, *, bare: str = "linear", then: str = "linear") -> Tensor:
    """Queries, keys or values as they reach the kernel, in heads.

    Args:
        bare: the activation where there is no convolution, which has its own.
        then: a further activation.
    """
    return by_head(convolved(layer, part, bare=bare, then=then), _heads_of(layer, part))


def convolved(layer: Captured, part: str, *, bare: str = "linear", then: str = "linear") -> Tensor:
    """A projection of the input, through its convolution if any and activation: all heads."""
    x = _act(layer, part, bare, then)(_linear(layer, part)(given(layer)))
    is_masked = layer.family not in PADDED or part in VALUES
    return Chain(masking(layer, x) if is_masked else ())(x)


def entering(
    layer: Captured, part: str = "v", *, bare: str = "linear", then: str = "linear"
) -> Chain:
    """The stages from the layer's input to the values."""
    linear, x = _linear(layer, part), given(layer)
    factor = secant(_act(layer, part, bare, then), linear(x))
    return Chain((*linear, Scale(factor), *masking(layer, x)))


def leaving(layer: Captured, response: Tensor, *, norm: str, heads: int, gate: str | None) -> Chain:
    """The norm of every head, the output gate if any, the output projection; padding is zero.

    Args:
        gate: the activation of ``g_proj``; None where there is no output gate.
    """
    x = hidden(layer) if layer.family not in PADDED else given(layer)
    split = response.unflatten(-1, (heads, -1))
    factor = rms_factor(split, epsilon=epsilon_of(layer.module.get_submodule(norm)))
    weight = layer.weights.get(f"{norm}.weight")
    factor = (factor.expand_as(split) if weight is None else weight * factor).flatten(-2)
    if gate is not None:
        factor = factor * ACTIVATIONS[gate](through(layer, "g_proj", x))
    return Chain((Scale(factor), *put_out(layer, x)))


def put_out(layer: Captured, x: Tensor) -> tuple[Stage, ...]:
    """The output projection, and where padding is left out of the layer a mask."""
    mask = () if layer.family in PADDED else masking(layer, x)
    return layer.projection("o_proj"), *mask


def decay_of_heads(layer: Captured, x: Tensor) -> Tensor:
    """``-exp(A_log) softplus(a + dt_bias)``, the log decay of every head: ``sample head time``."""
    raw = layer.project("a_proj", x) + layer.weights["dt_bias"]
    return (-layer.weights["A_log"].exp() * softplus(raw)).mT


def through(layer: Captured, name: str, x: Tensor) -> Tensor:
    """``x`` through the projection ``name``, or through its two low-rank factors."""
    if f"{name}.weight" in layer.weights:
        return layer.project(name, x)
    return layer.project(f"{name}.1", layer.project(f"{name}.0", x))


def hidden(layer: Captured) -> Tensor:
    """The layer's input, with padding set to zero.

    Raises:
        UnreadableError: for packed sequences, a running cache, or padding between tokens.
    """
    x = given(layer)
    return Chain(masking(layer, x))(x)


def given(layer: Captured) -> Tensor:
    """The layer's input as it is.

    Raises:
        UnreadableError: for packed sequences, a running cache, or padding between tokens.
    """
    arguments, mask = layer.arguments, layer.arguments.get("attention_mask")
    if arguments.get("cu_seqlens") is not None:
        raise UnreadableError(
            "it was given packed sequences (cu_seqlens): pass one sequence for each sample"
        )
    cache = arguments.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise UnreadableError("it continues a cache: run the whole sequence with use_cache=False")
    if isinstance(mask, Tensor) and bool((mask.bool().int().diff(dim=-1) == 1).sum(-1).gt(1).any()):
        raise UnreadableError("its mask has padding between tokens: pad on one side")
    x: Tensor = arguments["hidden_states"]
    return x


def known_by(function: Callable[..., Tensor]) -> str:
    """The name under which the package lists an activation.

    Raises:
        UnreadableError: if it is not listed in ``ACTIVATIONS``.
    """
    listed = vars(sys.modules["fla.modules.activations"])["ACT2FN"]
    name = next((each for each, known in listed.items() if known is function), "")
    if name not in ACTIVATIONS:
        raise UnreadableError(f"its activation '{name or function}' is not known to this adapter")
    return name


def _linear(layer: Captured, part: str) -> Chain:
    """Mask, projection and, if set, convolution; grouped heads are repeated."""
    rows = layer.projection(f"{part}_proj")
    stages: list[Stage] = [Project(_shared(layer, part, rows.weight), rows.bias)]
    if f"{part}_conv1d.weight" in layer.weights:
        filtered = convolution(layer, f"{part}_conv1d")
        bias = None if filtered.bias is None else _shared(layer, part, filtered.bias)
        stages.append(type(filtered)(_shared(layer, part, filtered.kernel), bias))
    is_masked = layer.family not in PADDED or len(stages) > 1  # convolutions are given a mask
    mask = masking(layer, layer.arguments["hidden_states"]) if is_masked else ()
    return Chain((*mask, *stages))


def _act(layer: Captured, part: str, bare: str, then: str) -> Callable[[Tensor], Tensor]:
    found = getattr(layer.module, f"{part}_conv1d", None)
    first = ACTIVATIONS[bare if found is None else getattr(found, "activation", "silu") or "linear"]
    return first if then == "linear" else lambda x: ACTIVATIONS[then](first(x))


def _heads_of(layer: Captured, part: str) -> int:
    several = getattr(layer.module, "num_v_heads", None) if part == "v" else None
    heads: int = several or layer.module.num_heads
    return heads


def _shared(layer: Captured, part: str, rows: Tensor) -> Tensor:
    """Rows of keys or values repeated for every query head that reads them."""
    times = getattr(layer.module, "num_kv_groups", 1) if part in "kv" else 1
    heads = rows.unflatten(0, (_heads_of(layer, part) // times, -1)) if times > 1 else rows
    return heads.repeat_interleave(times, dim=0).flatten(0, 1) if times > 1 else rows


def shared_by(part: Tensor, heads: int) -> Tensor:
    """Queries or keys, ``sample head time key``, repeated for each of ``heads`` value heads."""
    return part.repeat_interleave(heads // part.shape[1], dim=1)


def rotated(x: Tensor, *, base: float = 10000.0) -> Tensor:
    """Rotary position embedding of ``x``; the two halves of the channels form the pairs."""
    steps, width = x.shape[-2:]
    speed = base ** -(torch.arange(0, width, 2, dtype=x.dtype, device=x.device) / width)
    angle = torch.arange(steps, dtype=x.dtype, device=x.device)[:, None] * speed
    first, second = x.chunk(2, dim=-1)
    turned = first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()
    return torch.cat(turned, dim=-1)
