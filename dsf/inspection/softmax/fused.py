"""Records and reads softmax attention of modules that call torch's fused attention.

Source of the conventions: ``torch.nn.functional.scaled_dot_product_attention``.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Captured, Through, add_call, add_name, copied
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.errors import UnreadableError
from dsf.inspection.softmax import attention
from dsf.mixers import SoftmaxAttention

POSITIONAL = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class FusedCalls:
    """Appends calls of fused attention to ``calls``."""

    def __init__(self, where: ModuleStack, calls: list[Call]):
        self._where, self._calls = where, calls

    def recorded(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Any:
        """Record a call; its output, or what the attention is to return instead."""
        module = self._where.module
        if module is None or not self._where.records(self._where.name_of(module)):
            return output
        if not self._where.keeps(self._where.name_of(module)):
            add_name(self._calls, module, Through.FUSED, self._where)
            return output
        given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
        arguments = {name: copied(part) for name, part in given.items()}
        place = len(self._calls)
        name = self._where.name_of(module)
        call = Call(name, module, arguments, copied(output), place, Through.FUSED)
        call.seen = self._where.coordinates(
            query=given.get("query"), value=given.get("value"), output=output
        )
        put_out = add_call(self._calls, call, self._where, output)
        if output.ndim == 4:
            mixed = output.transpose(1, 2).flatten(-2)
            keep = partial(setattr, call, "surroundings")
            self._where.pass_surroundings(module, arguments["value"], mixed, keep)
        return put_out


def read(layer: Captured) -> SoftmaxAttention:
    """The mixer with query, key and value of the function; grouped heads are repeated in blocks."""
    if layer.arguments.get("dropout_p"):
        raise UnreadableError(
            "it calls fused attention with dropout, also in evaluation mode: its weights are "
            "random. Pass dropout_p=0.0 when the module is not training"
        )
    parts = _expanded(layer)
    batch = parts[0].shape[:-2]
    query = _by_sample(layer, parts[0], batch, has_rows=True)
    key, value = (_by_sample(layer, part, batch) for part in parts[1:])
    scale = layer.arguments.get("scale")
    return attention.attention(
        query,
        key,
        value,
        _bias(layer, query, key),
        scale=float(scale) if scale is not None else query.shape[-1] ** -0.5,
        causal=_is_causal(layer) and query.shape[-2] == key.shape[-2],
    )


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """The function's output: ``*batch time channel``.

    A mask that hides all keys of a query by the lowest number of the dtype, not by ``-inf``, gives
    a uniform row. Such queries are padding; their output is copied from the captured one.
    """
    response = mixed.squeeze(-2)
    if layer.maps is not None:
        response = layer.maps.restored(response)
    response = response.reshape(layer.output.shape)
    mask = layer.arguments.get("attn_mask")
    if mask is None:
        return response
    fully_masked = (attention.as_bias(mask) == -torch.inf).all(dim=-1, keepdim=True)
    return torch.where(fully_masked.expand(*response.shape[:-1], 1), layer.output, response)


def _expanded(layer: Captured) -> list[Tensor]:
    """Query, key and value with equal batch axes; grouped heads are repeated."""
    query, key, value = (layer.arguments[name] for name in ("query", "key", "value"))
    if query.is_nested:
        raise UnreadableError(
            "it calls fused attention on a nested tensor. Pass a padded batch instead"
        )
    if layer.arguments.get("enable_gqa"):
        key, value = (
            part.repeat_interleave(query.shape[-3] // part.shape[-3], dim=-3)
            for part in (key, value)
        )
    parts = (query, key, value)
    leading = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return [part.expand(*leading, *part.shape[-2:]) for part in parts]


def _by_sample(
    layer: Captured, part: Tensor, batch: torch.Size, *, has_rows: bool = False
) -> Tensor:
    """A part in the axes of samples and heads, as the run showed them; else as they are usual."""
    if layer.maps is None:
        return _in_heads(part)
    return layer.maps.arranged(part, batch, has_rows=has_rows)


def _in_heads(part: Tensor) -> Tensor:
    """``sample head time width``: one head if there is no axis for it; further axes are merged."""
    if part.ndim < 4:
        return part.reshape(-1, 1, *part.shape[-2:])
    return part.flatten(0, -4)


def _is_causal(layer: Captured) -> bool:
    return bool(layer.arguments.get("is_causal"))


def _bias(layer: Captured, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask as a bias; a causal map that is not square gets one, aligned at the first tokens."""
    size = query.shape[-2], key.shape[-2]
    mask = layer.arguments.get("attn_mask")
    if mask is not None:
        batch = layer.output.shape[:-2]
        bias = attention.as_bias(mask).expand(*batch, *size)
        return _by_sample(layer, bias, batch, has_rows=True)
    if _is_causal(layer) and size[0] != size[1]:
        return attention.causal_bias(size, query.device)
    return None


def overlooked(layer: Captured) -> Tensor | None:
    """Tokens whose keys are all masked: ``sample time``."""
    mask = layer.arguments.get("attn_mask")
    if mask is None:
        return None
    seen = _in_heads(attention.as_bias(mask).expand(*layer.output.shape[:-1], mask.shape[-1]))
    return (seen == -torch.inf).all(dim=-1).any(dim=1)


ADAPTER = Adapter(
    families={},
    read=read,
    finish=finish,
    enter=attention.enter,
    leave=attention.leave,
    overlooked=overlooked,
)
