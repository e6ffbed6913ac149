"""Softmax attention that its module computes on its own, as bloom, mpt, falcon and gpt_neo do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.composite import ExplicitMap, StoredRows
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured
from dsf.inspection.errors import UnreadableError
from dsf.inspection.softmax import attention
from dsf.inspection.whole.stages import Chain, Project
from dsf.mixers import SoftmaxAttention
from dsf.mixers.base import Mixer


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GivenWeights(Mixer):
    """Values summed with the weights that a module was seen to multiply them with.

    Attributes:
        weights: row t is what token t is made of.
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
    """Queries, keys and a bias where the scores are nothing else; otherwise the weights."""
    given = layer.arguments
    if given.get("heads") is None:
        raise UnreadableError(
            "it multiplies the output of a softmax with values, but makes only a part of what it "
            "puts out that way (attention in blocks, several streams, or something beside it), so "
            "this would not be its map"
        )
    value = _in_heads(layer, "value")
    if "weights" in given:
        return GivenWeights(weights=_in_heads(layer, "weights"), value=value)
    bias = None if given["bias"] is None else _in_heads(layer, "bias")
    query, key = _in_heads(layer, "query"), _in_heads(layer, "key")
    return attention.attention(query, key, value, bias, scale=given["scale"])


def join(calls: Sequence[Call]) -> Sequence[Call]:
    """All attentions of one module; one of them, where some are a part of what it puts out."""
    parts = [call for call in calls if call.arguments.get("heads") is None]
    return parts[:1] or calls


def finish(
    layer: Captured, mixed: Shaped[Tensor, "sample head time output channel"]
) -> Shaped[Tensor, "map time channel"]:
    """The product with the values. A query that sees no key is padding and taken over."""
    response = mixed.squeeze(-2).flatten(0, 1)
    blind = _blind(layer)
    return response if blind is None else torch.where(blind.unsqueeze(-1), layer.output, response)


def enter(layer: Captured) -> Chain:
    """The projection of the values.

    Raises:
        InspectionError: if it was not recognised.
    """
    found = attention.around(layer)
    weight, bias = attention.linear_map(found.source)
    return Chain((Project(weight[found.places], None if bias is None else bias[found.places]),))


def overlooked(layer: Captured) -> Tensor | None:
    """Tokens that see no key: ``sample time``."""
    blind = _blind(layer)
    if blind is None:
        return None
    return rearrange(blind, "(s h) t -> s h t", h=layer.arguments["heads"]).any(dim=1)


def _blind(layer: Captured) -> Tensor | None:
    bias = layer.arguments.get("bias")
    return None if bias is None else (bias == -torch.inf).all(dim=-1)


def _in_heads(layer: Captured, name: str) -> Tensor:
    return layer.arguments[name].unflatten(0, (-1, layer.arguments["heads"]))


ADAPTER = Adapter(
    families={},
    read=read,
    finish=finish,
    enter=enter,
    leave=attention.leave,
    overlooked=overlooked,
    join=join,
)
