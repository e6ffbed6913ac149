"""Reads softmax attention that a module computes itself, as bloom, mpt, falcon and gpt_neo do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.errors import UnreadableError
from dsf.inspection.softmax import attention
from dsf.inspection.whole.stages import Chain, Project
from dsf.mixers import SoftmaxAttention
from dsf.mixers.base import Mixer
from dsf.systems.composite import ExplicitMap, StoredRows


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GivenWeights(Mixer):
    """An attention map that was recorded as such, and the values it was multiplied with.

    Attributes:
        weights: row t holds the weights of query t.
    """

    weights: Float[Tensor, "*batch time read"]
    value: Float[Tensor, "*batch read channel"]

    source: ClassVar[str] = "the module's own run"

    def system(self) -> ExplicitMap:
        return ExplicitMap(StoredRows(self.weights))

    def signal(self) -> Shaped[Tensor, "*batch read 1 channel"]:
        return self.value.unsqueeze(-2)

    @classmethod
    def draw(cls, rng: torch.Generator, *, steps: int) -> "GivenWeights":
        weights = torch.randn(2, steps, steps, generator=rng, dtype=torch.float64).tril()
        value = torch.randn(2, steps, 3, generator=rng, dtype=torch.float64)
        return cls(weights=weights, value=value)


def read(layer: Captured) -> SoftmaxAttention | GivenWeights:
    """Softmax attention where queries, keys and a bias explain the scores; else the weights."""
    given = layer.arguments
    if given.get("heads") is None and layer.maps is None:
        raise UnreadableError(
            "it multiplies the output of a softmax with values, but that is only a part of its "
            "output (attention in blocks, several streams, or a further branch), so this would not "
            "be its map"
        )
    value = _in_heads(layer, "value")
    if "weights" in given:
        return GivenWeights(weights=_in_heads(layer, "weights"), value=value)
    bias = None if given["bias"] is None else _in_heads(layer, "bias")
    query, key = _in_heads(layer, "query"), _in_heads(layer, "key")
    return attention.attention(query, key, value, bias, scale=given["scale"])


def join(calls: Sequence[Call]) -> Sequence[Call]:
    """The attentions of one module; only one, if some make only a part of the module's output."""
    parts = [call for call in calls if call.arguments.get("heads") is None]
    if len(parts) == len({call.invocation for call in parts}) and all(call.maps for call in parts):
        return calls
    for call in parts:
        call.maps = None
    return parts[:1] or calls


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "map row channel"]:
    """The response; that of a query whose keys are all masked (padding) is the captured one."""
    response = mixed.squeeze(-2)
    response = response.flatten(0, 1) if layer.maps is None else layer.maps.restored(response)
    masked = _fully_masked(layer)
    return response if masked is None else torch.where(masked.unsqueeze(-1), layer.output, response)


def enter(layer: Captured) -> Chain:
    """The value projection.

    Raises:
        InspectionError: if it was not recognised.
    """
    found = attention.around(layer)
    weight, bias = attention.linear_map(found.source)
    places = in_float64(found.places)
    return Chain((Project(weight[places], None if bias is None else bias[places]),))


def overlooked(layer: Captured) -> Tensor | None:
    """Tokens whose keys are all masked: ``sample time``."""
    masked = _fully_masked(layer)
    if masked is None:
        return None
    return rearrange(masked, "(s h) t -> s h t", h=layer.arguments["heads"]).any(dim=1)


def _fully_masked(layer: Captured) -> Tensor | None:
    bias = layer.arguments.get("bias")
    return None if bias is None else (bias == -torch.inf).all(dim=-1)


def _in_heads(layer: Captured, name: str) -> Tensor:
    part = layer.arguments[name]
    if layer.maps is not None:
        has_rows = name in ("query", "bias", "weights")
        return layer.maps.arranged(part, part.shape[:1], has_rows=has_rows)
    return part.unflatten(0, (-1, layer.arguments["heads"]))


ADAPTER = Adapter(
    families={},
    read=read,
    finish=finish,
    enter=enter,
    leave=attention.leave,
    overlooked=overlooked,
    idle=_fully_masked,
    join=join,
)
