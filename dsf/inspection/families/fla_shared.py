"""What layers of the ``fla`` package share: queries, keys, values, norm, gate and projection.

Source: flash-linear-attention 0.6.0, ``fla/layers``. The package removes padding before a layer
runs and fills it with zeros afterwards, so that a sequence begins at its first token and padding
writes nothing into the state.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

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


def stream(layer: Captured, part: str, *, bare: str = "linear") -> Tensor:
    """Queries, keys or values as they reach the kernel, in heads.

    Args:
        bare: the activation where there is no convolution, which has its own.
    """
    stages = _linear(layer, part)
    x = _act(layer, part, bare)(stages(hidden(layer)))
    return by_head(Chain(masking(layer, x))(x), _heads_of(layer, part))


def entering(layer: Captured, part: str = "v", *, bare: str = "linear") -> Chain:
    """The stages from the layer's input to the values."""
    linear, given = _linear(layer, part), hidden(layer)
    factor = secant(_act(layer, part, bare), linear(given))
    return Chain((*linear, Scale(factor), *masking(layer, given)))


def leaving(layer: Captured, response: Tensor, *, norm: str, heads: int, gate: str | None) -> Chain:
    """The norm of every head, the output gate if any, the output projection; padding is zero.

    Args:
        gate: the activation of ``g_proj``; None where there is no output gate.
    """
    x = hidden(layer)
    split = response.unflatten(-1, (heads, -1))
    factor = rms_factor(split, epsilon=epsilon_of(layer.module.get_submodule(norm)))
    weight = layer.weights.get(f"{norm}.weight")
    factor = (factor.expand_as(split) if weight is None else weight * factor).flatten(-2)
    if gate is not None:
        factor = factor * ACTIVATIONS[gate](through(layer, "g_proj", x))
    return Chain((Scale(factor), layer.projection("o_proj"), *masking(layer, x)))


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
    given, mask = layer.arguments, layer.arguments.get("attention_mask")
    if given.get("cu_seqlens") is not None:
        raise UnreadableError(
            "it was given packed sequences (cu_seqlens): pass one sequence for each sample"
        )
    cache = given.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise UnreadableError("it continues a cache: run the whole sequence with use_cache=False")
    if isinstance(mask, Tensor) and bool((mask.bool().int().diff(dim=-1) == 1).sum(-1).gt(1).any()):
        raise UnreadableError("its mask has padding between tokens: pad on one side")
    x: Tensor = given["hidden_states"]
    return Chain(masking(layer, x))(x)


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
    rows, groups = layer.projection(f"{part}_proj"), _groups(layer, part)
    stages: list[Stage] = [Project(_shared(rows.weight, groups), rows.bias)]
    if f"{part}_conv1d.weight" in layer.weights:
        filtered = convolution(layer, f"{part}_conv1d")
        bias = None if filtered.bias is None else _shared(filtered.bias, groups)
        stages.append(type(filtered)(_shared(filtered.kernel, groups), bias))
    return Chain((*masking(layer, layer.arguments["hidden_states"]), *stages))


def _act(layer: Captured, part: str, bare: str) -> Callable[[Tensor], Tensor]:
    found = getattr(layer.module, f"{part}_conv1d", None)
    return ACTIVATIONS[bare if found is None else found.activation or "linear"]


def _groups(layer: Captured, part: str) -> tuple[int, int]:
    """The number of heads that are projected, and how many query heads read each of them."""
    times = getattr(layer.module, "num_kv_groups", 1) if part in "kv" else 1
    return _heads_of(layer, part) // times, times


def _heads_of(layer: Captured, part: str) -> int:
    several = getattr(layer.module, "num_v_heads", None) if part == "v" else None
    heads: int = several or layer.module.num_heads
    return heads


def _shared(rows: Tensor, groups: tuple[int, int]) -> Tensor:
    heads, times = groups
    return rows.unflatten(0, (heads, -1)).repeat_interleave(times, dim=0).flatten(0, 1)


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
