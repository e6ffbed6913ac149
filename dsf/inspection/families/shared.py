"""Steps that several families share: projections, convolutions, masks, norms, heads and caches.

Layers of transformers that continue a cache begin with what it holds of earlier tokens. Releases
whose caches are kept in another way are not read: their layers do not start from rest.

The second half is for layers of the ``fla`` package (flash-linear-attention 0.6.0, ``fla/layers``).
It removes padding before most layers run and fills it with zeros afterwards, so that a sequence
begins at its first token and padding writes nothing into the state.
"""

import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.containers import is_cache
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.capture.weights import double_copy
from dsf.inspection.errors import UnreadableError
from dsf.inspection.whole.stages import Chain, Filter, Project, Scale, Stage, secant

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


def of_transformers(**classes: str) -> dict[str, str]:
    """The families of adapters: by the path of a class of the library the name of its model."""
    home = "transformers.models"
    return {f"{home}.{model}.modeling_{model}.{name}": model for model, name in classes.items()}


def state_before(layer: Captured, question: str = "get_recurrent_state") -> Tensor | None:
    """What the cache of a call holds of earlier tokens, as it lays it out; None from rest."""
    cache = next((part for part in layer.arguments.values() if is_cache(part)), None)
    place = getattr(layer.module, "layer_idx", None)
    if place is None or not hasattr(cache, question):
        return None
    held = getattr(cache, question)(place)
    return in_float64(held) if isinstance(held, Tensor) else None


def activation(layer: Captured, part: str = "") -> Callable[[Tensor], Tensor]:
    """The activation of the module or of its submodule ``part``; SiLU where it has no setting."""
    wanted = getattr(layer.module.get_submodule(part), "activation", "silu")
    if wanted not in ACTIVATIONS:
        raise ValueError(
            f"{layer.name}: the activation '{wanted}' is not known to this adapter; known are "
            f"{', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[wanted]


def masked(layer: Captured, x: Tensor) -> Tensor:
    """``x``, ``sample time width``, with padding tokens set to zero if there is a 2-D mask."""
    return Chain(masking(layer, x))(x)


def masking(layer: Captured, like: Tensor) -> tuple[Scale, ...]:
    """A stage that sets padding tokens to zero, if there is a 2-D padding mask; else no stage."""
    mask = layer.arguments.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return ()
    return (Scale(mask[:, -like.shape[1] :].to(like.dtype).unsqueeze(-1)),)


def activated(
    stages: Iterable[Stage], act: Callable[[Tensor], Tensor], x: Tensor, after: Iterable[Stage] = ()
) -> Chain:
    """Stages from ``x`` to an activation, the factor that it is in this run, and those after it."""
    linear = Chain(tuple(stages))
    return Chain((*linear, Scale(secant(act, linear(x))), *after))


def some_rows(layer: Captured, name: str, pick: Callable[[Tensor], Tensor]) -> Project:
    """The projection ``name``, limited to those outputs that ``pick`` takes along the last axis."""
    whole = layer.projection(name)
    bias = None if whole.bias is None else pick(whole.bias)
    ran = None if whole.ran is None else (whole.ran[0], pick(whole.ran[1]))
    return Project(pick(whole.weight.mT).mT, bias, ran)


def through(layer: Captured, x: Tensor, name: str, *factors: str) -> Tensor:
    """``x`` through the projection ``name``, or through its low-rank factors where it has none."""
    for each in (name,) if f"{name}.weight" in layer.weights else factors:
        x = layer.project(each, x)
    return x


def by_own_code(layer: Captured, path: str, x: Tensor) -> Tensor:
    """``x`` through a function or a part of the module, plain torch code that runs in float64."""
    part: Any = operator.attrgetter(path)(layer.module)
    found: Tensor = (double_copy(part) if isinstance(part, nn.Module) else part)(x)
    return found


def convolution(layer: Captured, name: str, channels: slice = slice(None)) -> Filter:
    """The depthwise causal convolution ``name``, or some of its channels."""
    bias = layer.weights.get(f"{name}.bias")
    kernel = layer.weights[f"{name}.weight"].squeeze(1)
    held, before = state_before(layer, "get_conv_state"), kernel.shape[-1] - 1
    earlier = None if held is None or before < 1 else held.mT[..., -before:, channels]
    return Filter(kernel[channels], None if bias is None else bias[channels], earlier=earlier)


def rms_factor(x: Tensor, *, epsilon: float) -> Tensor:
    """One over the root mean square along the last axis, which stays with size one."""
    return (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()


def head_norm(layer: Captured, norm: str, x: Tensor, heads: int) -> Tensor:
    """The factor that the RMS norm ``norm`` is at ``x``, ``sample time width``, head by head."""
    split = x.unflatten(-1, (heads, -1))
    epsilon = epsilon_of(layer.module.get_submodule(norm))
    factor = rms_factor(split, epsilon=epsilon).expand_as(split).flatten(-2)
    weight = layer.weights.get(f"{norm}.weight")
    return factor if weight is None else weight.repeat(x.shape[-1] // len(weight)) * factor


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


def by_head(x: Tensor, heads: int) -> Tensor:
    """``sample time (head channel)`` split into ``sample head time channel``."""
    return rearrange(x, "sample time (head channel) -> sample head time channel", head=heads)


def side_by_side(x: Tensor) -> Tensor:
    """The inverse of ``by_head``."""
    return rearrange(x, "sample head time channel -> sample time (head channel)")


def shared_by(part: Tensor, heads: int) -> Tensor:
    """Queries or keys, ``sample head time key``, repeated for each of ``heads`` value heads."""
    return part.repeat_interleave(heads // part.shape[1], dim=1)


TOLERANCE = 1e-5
"""The kernels of fla sum in float32, whatever the dtype of the model."""
PADDED = {"hgrn", "rwkv6", "rwkv7", "simple_gla"}
"""Families that run padding through the layer: it writes nothing, but its output is not zero."""
VALUES = {"v", "i"}


def fla_adapter(path: str, read: Callable[[Captured], Any], **others: Any) -> Adapter:
    """The adapter of one class below ``fla.layers``; of a family named like its file by default."""
    family = others.pop("family", path.partition(".")[0])
    if "leave" in others:
        others.setdefault("enter", entering)
    families = {f"fla.layers.{path}": family}
    return Adapter(families=families, read=read, tolerance=TOLERANCE, **others)


def stream(layer: Captured, part: str, *, bare: str = "linear", then: str = "linear") -> Tensor:
    """Queries, keys or values in heads; ``bare`` acts where no convolution does, then ``then``."""
    heads = heads_of(layer) if part == "v" else layer.module.num_heads
    return by_head(convolved(layer, part, bare=bare, then=then), heads)


def convolved(layer: Captured, part: str, *, bare: str = "linear", then: str = "linear") -> Tensor:
    """A projection of the input, through its convolution if any and activation: all heads."""
    x = _act(layer, part, bare, then)(_linear(layer, part)(given(layer)))
    return masked(layer, x) if layer.family not in PADDED or part in VALUES else x


def entering(
    layer: Captured, part: str = "v", *, bare: str = "linear", then: str = "linear"
) -> Chain:
    """The stages from the layer's input to the values."""
    x = given(layer)
    return activated(_linear(layer, part), _act(layer, part, bare, then), x, masking(layer, x))


def leaving(
    layer: Captured,
    response: Tensor,
    *,
    norm: str = "",
    heads: int | None = None,
    gate: str | None = None,
) -> Chain:
    """The norm of every head if any, the output gate if any, the output projection."""
    x = hidden(layer) if layer.family not in PADDED else given(layer)
    heads = heads_of(layer) if heads is None else heads
    has_norm = norm and not isinstance(layer.module.get_submodule(norm), nn.Identity)
    factors = [head_norm(layer, norm, response, heads)] if has_norm else []
    if gate is not None:
        factors.append(ACTIVATIONS[gate](through(layer, x, "g_proj", "g_proj.0", "g_proj.1")))
    return Chain((*map(Scale, factors), *put_out(layer, x)))


def leaving_gated(layer: Captured, response: Tensor) -> Chain:
    """The norm ``o_norm``, which multiplies by the output gate where the layer has one."""
    module, named = layer.module, ("use_gate", "use_output_gate")
    gated = next((getattr(module, name) for name in named if hasattr(module, name)), True)
    gate = getattr(module.o_norm, "activation", "silu") if gated else None
    return leaving(layer, response, norm="o_norm", gate=gate)


def put_out(layer: Captured, x: Tensor) -> tuple[Stage, ...]:
    """The output projection, and where padding is left out of the layer a mask."""
    mask = () if layer.family in PADDED else masking(layer, x)
    return layer.projection("o_proj"), *mask


def hidden(layer: Captured) -> Tensor:
    """The layer's input, with padding set to zero."""
    return masked(layer, given(layer))


def given(layer: Captured) -> Tensor:
    """The layer's input as it is."""
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
    """The name under which the package lists an activation."""
    listed = vars(sys.modules["fla.modules.activations"])["ACT2FN"]
    name = next((each for each, known in listed.items() if known is function), "")
    if name not in ACTIVATIONS:
        raise UnreadableError(f"its activation '{name or function}' is not known to this adapter")
    return name


def _linear(layer: Captured, part: str) -> Chain:
    """Mask, projection and, if set, convolution; grouped heads are repeated."""
    rows = layer.projection(f"{part}_proj")
    bias = None if rows.bias is None else _shared(layer, part, rows.bias)
    stages: list[Stage] = [Project(_shared(layer, part, rows.weight), bias)]
    if f"{part}_conv1d.weight" in layer.weights:
        filtered = convolution(layer, f"{part}_conv1d")
        bias = None if filtered.bias is None else _shared(layer, part, filtered.bias)
        stages.append(Filter(_shared(layer, part, filtered.kernel), bias))
    is_masked = layer.family not in PADDED or len(stages) > 1  # convolutions are given a mask
    mask = masking(layer, layer.arguments["hidden_states"]) if is_masked else ()
    return Chain((*mask, *stages))


def _act(layer: Captured, part: str, bare: str, then: str) -> Callable[[Tensor], Tensor]:
    found = getattr(layer.module, f"{part}_conv1d", None)
    first = ACTIVATIONS[bare if found is None else getattr(found, "activation", "silu") or "linear"]
    return first if then == "linear" else lambda x: ACTIVATIONS[then](first(x))


def heads_of(layer: Captured) -> int:
    """How many heads of values there are."""
    heads: int = getattr(layer.module, "num_v_heads", None) or layer.module.num_heads
    return heads


def _shared(layer: Captured, part: str, rows: Tensor) -> Tensor:
    """Rows of keys or values repeated for every query head that reads them."""
    own = getattr(layer.module, "num_kv_heads", None) if part in "kv" else None
    if own is None:
        return rows
    times = layer.module.num_heads // own
    return rows.unflatten(0, (own, -1)).repeat_interleave(times, dim=0).flatten(0, 1)
