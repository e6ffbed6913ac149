"""Converts maps and tokens to the arguments of BertViz and CircuitsVis.

Both insert tokens into HTML without escaping, so that angle brackets are replaced by ‹ and ›.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.inspection import InspectedLayer, Inspection
from dsf.runtime.argument_checks import checked
from dsf.systems.algebra import select

BRACKETS = str.maketrans("<>", "‹›")


@checked
def to_bertviz(
    inspection: Inspection,
    *,
    layers: Sequence[int] | None = None,
    sample: int = 0,
    heads: slice = slice(None),
) -> tuple[list[Float[Tensor, "1 head time time"]], list[str]]:
    """Maps of one sample and its tokens: ``bertviz.head_view(*to_bertviz(inspection))``.

    BertViz draws a weight as the opacity of a line, so that negative weights are not visible.

    Args:
        layers: indices of layers in the inspection; by default all.
        sample: the index of the sample.
        heads: the heads, or channels, of every layer.

    Raises:
        ValueError: if the layers differ in their number of heads or tokens, or a map is not square.

    Example:
        >>> import dsf, torch
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.randn(1, 5, 8)
        >>> maps, tokens = to_bertviz(dsf.inspect(attention, x, x, x))
        >>> maps[0].shape, tokens
        (torch.Size([1, 2, 5, 5]), ['0', '1', '2', '3', '4'])
    """
    chosen = [inspection[k] for k in (range(len(inspection)) if layers is None else layers)]
    maps = [_maps(layer, sample, heads).unsqueeze(0) for layer in chosen]
    sizes = {layer.name: tuple(map.shape[1:]) for layer, map in zip(chosen, maps, strict=True)}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items()) or "there is none"
        raise ValueError(
            f"to_bertviz: needs layers with the same heads and tokens, but {listed}. Choose some: "
            "layers=[0, 2], or heads=slice(0, 2)."
        )
    return maps, _tokens(inspection, sample, maps[0].shape[-1])


@checked
def to_circuitsvis(
    inspection: Inspection, layer: int = 0, *, sample: int = 0, heads: slice = slice(None)
) -> dict[str, Any]:
    """Signed maps of one layer and sample, as arguments of CircuitsVis' ``attention_heads``.

    ``circuitsvis.attention.attention_heads(**to_circuitsvis(inspection, 1))``

    Args:
        layer: the index of the layer in the inspection.
        sample: the index of the sample.
        heads: the heads, or channels.

    Raises:
        ValueError: if the map is not square.

    Example:
        >>> import dsf, torch
        >>> inspection = dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.randn(1, 6, 3))
        >>> given = to_circuitsvis(inspection, heads=slice(0, 2))
        >>> given["attention"].shape, given["tokens"][:2]
        (torch.Size([2, 6, 6]), ['0', '1'])
    """
    maps = _maps(inspection[layer], sample, heads)
    return {"tokens": _tokens(inspection, sample, maps.shape[-1]), "attention": maps}


def _maps(layer: InspectedLayer, sample: int, heads: slice) -> Float[Tensor, "head time time"]:
    """Maps of one sample, one for each head, without the columns of constant inputs."""
    samples = layer.system.batch[0] if layer.axes else 1
    if not -samples <= sample < samples:
        raise IndexError(
            f"{layer.name}: 'sample' must lie between 0 and {samples - 1}, but it is {sample}."
        )
    index = (sample, heads)[: len(layer.axes)]
    system = select(layer.system, index)
    map = attention_map(system).unflatten(-1, (-1, system.input_size))[..., 0]
    if map.is_complex() or map.shape[-1] != map.shape[-2]:
        raise ValueError(
            f"{layer.name}: needs a real, square map of tokens, but this one has the shape "
            f"{tuple(map.shape[-2:])} and the type {map.dtype}."
        )
    return map.reshape(-1, *map.shape[-2:]).to(torch.float32)


def _tokens(inspection: Inspection, sample: int, steps: int) -> list[str]:
    if inspection.tokens is None:
        return [str(token) for token in range(steps)]
    return [token.translate(BRACKETS) for token in inspection.tokens[sample]]
