"""The stored weights behind softmax attention with rotary positions and plain projections.

Reads softmax attention that goes through the model library's attention interface.

Order of operations: scaled product of query and key, soft cap, position bias, mask, sink, softmax.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf.certificates import StoredLayer
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Captured, Weights
from dsf.inspection.capture.module_stack import Surroundings, is_transposed
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.errors import InspectionError
from dsf.inspection.whole.stages import Chain, Project, Scale
from dsf.mixers import SoftmaxAttention


def stored_rotary_attention(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
    """One head of a module whose queries and keys are rotated projections of its input.

    Raises:
        InspectionError: if the module has other parts.
    """
    query: Any = getattr(module, "q_proj", None)
    key: Any = getattr(module, "k_proj", None)
    angles = arguments.get("position_embeddings")
    plain = all(getattr(each, "bias", ...) is None for each in (query, key))
    if angles is None or not plain or any(hasattr(module, n) for n in ("q_norm", "k_norm")):
        raise InspectionError(
            f"{type(module).__name__}: a stored layer of softmax attention needs projections "
            "'q_proj' and 'k_proj' without bias and norm, and rotary positions. "
            "certify.nonnegative(layer.map()) speaks of the formed map."
        )
    shared = module.num_key_value_groups
    queries, keys = (
        each.weight.detach().unflatten(0, (-1, module.head_dim)) for each in (query, key)
    )
    cos, sin = (part[0].detach() for part in angles)
    return StoredLayer(
        "softmax_attention",
        {
            "cos": cos,
            "input": arguments["hidden_states"][0].detach(),
            "key_weight": keys[head // shared],
            "query_weight": queries[head],
            "scale": torch.tensor([module.scaling], dtype=torch.float64),
            "sin": sin,
        },
    )


# Additive masks hide a key by the lowest number of the model's dtype; that of float16 is highest.
HIDDEN = torch.finfo(torch.float16).min / 2


def as_bias(mask: Shaped[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """A mask as a float64 bias of the scores, ``-inf`` where a key is masked.

    A boolean mask is true where a key is not masked.
    """
    mask = in_float64(mask)
    if mask.dtype == torch.bool:
        zero = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
        return zero.masked_fill(~mask, -torch.inf)
    return mask.masked_fill(mask <= HIDDEN, -torch.inf)


def attention(
    query: Float[Tensor, "*batch time key"],
    key: Float[Tensor, "*batch read key"],
    value: Float[Tensor, "*batch read channel"],
    bias: Float[Tensor, "*#batch #time read"] | None,
    *,
    scale: float,
    causal: bool = False,
) -> SoftmaxAttention:
    """The mixer; a bias that only masks later keys is replaced by ``causal=True``."""
    if bias is not None and not causal and hides_the_future(bias):
        causal = True
        ahead = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).triu(1)
        if bool((bias.masked_fill(ahead, 0) == 0).all()):
            bias = None
    return SoftmaxAttention(
        query=query,
        key=key,
        value=value,
        scale=scale,
        bias=None if bias is None else bias.expand(*query.shape[:-1], key.shape[-2]),
        causal=causal,
    )


def hides_the_future(bias: Float[Tensor, "*batch time read"]) -> bool:
    """Whether a square bias masks every key above the diagonal."""
    tokens, keys = bias.shape[-2:]
    if tokens != keys:
        return False
    ahead = torch.ones(tokens, keys, dtype=torch.bool, device=bias.device).triu(1)
    return bool(((bias == -torch.inf) | ~ahead).all())


def read(layer: Captured) -> SoftmaxAttention:
    """The mixer with query, key and value of the interface; grouped heads are repeated."""
    query, key, value = (layer.arguments[name] for name in ("query", "key", "value"))
    heads = query.shape[1]
    scale = layer.arguments.get("scaling")
    sink = layer.arguments.get("s_aux")
    if sink is not None:
        sink = in_float64(sink).reshape(1, -1).expand(query.shape[0], heads)
    key, value = _repeated(key, heads), _repeated(value, heads)
    bias = _bias(layer)
    if layer.maps is not None and not layer.maps.is_usual:
        batch = query.shape[:-2]
        query = layer.maps.arranged(query, batch, has_rows=True)
        key, value = (layer.maps.arranged(part, batch) for part in (key, value))
        bias = None if bias is None else layer.maps.arranged(bias, batch, has_rows=True)
        sink = None if sink is None else layer.maps.arranged(sink[..., None, None], batch)
        sink = None if sink is None else sink[..., 0, 0]
    plain = attention(
        query,
        key,
        value,
        bias,
        scale=float(scale) if scale is not None else query.shape[-1] ** -0.5,
        causal=_is_causal(layer) and query.shape[-2] == key.shape[-2],
    )
    return replace(plain, softcap=layer.arguments.get("softcap"), sink=sink)


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """The interface's output: ``sample time head channel``.

    For a query whose keys are all masked the library has a uniform row and our map a row of zeros.
    Such queries are padding; their output is copied from the captured one.
    """
    response = mixed.squeeze(-2)
    if layer.maps is not None:
        response = layer.maps.restored(response).reshape(*layer.arguments["query"].shape[:-1], -1)
    response = response.transpose(1, 2)
    bias = _bias(layer)
    if bias is None:
        return response
    fully_masked = (bias == -torch.inf).all(dim=-1).transpose(1, 2).unsqueeze(-1)
    return torch.where(fully_masked, layer.output, response)


def _bias(layer: Captured) -> Tensor | None:
    """Position bias plus mask, cut to the number of keys."""
    keys = layer.arguments["key"].shape[-2]
    mask, position = (layer.arguments.get(name) for name in ("attention_mask", "position_bias"))
    if position is not None:
        position = as_bias(position)[..., :keys]
    steps = layer.arguments["query"].shape[-2]
    if mask is None and position is None and _is_causal(layer) and steps != keys:
        return causal_bias((steps, keys), layer.arguments["query"].device)
    if mask is None or position is None:
        return position if mask is None else mask[..., :keys]
    return mask[..., :keys] + position


def _is_causal(layer: Captured) -> bool:
    return bool(layer.arguments["is_causal"]) and layer.arguments["query"].shape[-2] > 1


def causal_bias(size: tuple[int, int], device: torch.device) -> Float[Tensor, "1 1 time read"]:
    """The mask of a causal map that need not be square, aligned at the first tokens as in torch."""
    seen = torch.ones(size, dtype=torch.bool, device=device).tril()
    return as_bias(seen)[None, None]


def _repeated(part: Tensor, heads: int) -> Tensor:
    """Keys or values repeated so that query head h has head h // (heads per group)."""
    return part.repeat_interleave(heads // part.shape[1], dim=1)


def enter(layer: Captured) -> Chain:
    """The value projection, repeated for every query head of a group.

    Raises:
        InspectionError: if the projection was not recognised.
    """
    found = around(layer)
    value, heads = layer.arguments["value"], layer.arguments["query"].shape[-3]
    places = in_float64(found.places).unflatten(-1, value.shape[-3:-2] + value.shape[-1:])
    places = places.repeat_interleave(heads // value.shape[-3], dim=0).flatten()
    weight, bias = linear_map(found.source)
    project = Project(weight[places], None if bias is None else bias[places])
    return Chain((project, *clamping(found, project)))


def clamping(found: Surroundings, project: Project) -> tuple[Scale, ...]:
    """A stage that takes the projected values to where the module clamped them; else no stage."""
    if found.clamped is None:
        return ()
    low, high = found.clamped
    values = project(in_float64(found.given))
    factor = values.clamp(low, high) / torch.where(values == 0, 1, values)
    return (Scale(factor),)


def leave(layer: Captured, _: Tensor) -> Chain:
    """The output gate and the output projection, each if there is one.

    Raises:
        InspectionError: if they were not recognised.
    """
    found = around(layer)
    gate = () if found.gate is None else (Scale(found.gate),)
    return Chain(gate if found.out is None else (*gate, Project(*linear_map(found.out))))


def overlooked(layer: Captured) -> Tensor | None:
    """Tokens whose keys are all masked, where the library has a uniform row: ``sample time``."""
    bias = _bias(layer)
    if bias is None:
        return None
    fully_masked = (bias == -torch.inf).all(dim=-1).any(dim=1)
    return fully_masked.expand(layer.arguments["query"].shape[0], -1)


def around(layer: Captured) -> Surroundings:
    """What the module computes before and after its attention.

    Raises:
        InspectionError: if that was not recognised.
    """
    if layer.surroundings is None:
        raise InspectionError(
            f"{layer.name}: around this attention no linear maps were recognised as its value and "
            "output projections, so only the mixer is known. layer.map() gives its map."
        )
    return layer.surroundings


def linear_map(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight of a linear map, laid out ``output width``, and its bias."""
    weights = Weights(module)
    weight = weights["weight"]
    return weight.mT if is_transposed(module) else weight, weights.get("bias")


ADAPTER = Adapter(
    families={},
    read=read,
    finish=finish,
    enter=enter,
    leave=leave,
    overlooked=overlooked,
)
