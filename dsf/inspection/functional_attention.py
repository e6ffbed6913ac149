"""Softmax attention of modules that call torch's functional multi-head attention, as WavLM does.

It projects and attends inside one function, from weights that it is given by name.
"""

from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.inspection import torch_attention
from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured
from dsf.inspection.hooks import Call, Through, bound, kept
from dsf.inspection.whereabouts import Whereabouts
from dsf.mixers import SoftmaxAttention

FUNCTION = torch.nn.functional.multi_head_attention_forward
BESIDE = {"bias_k", "bias_v", "in_proj_bias", "in_proj_weight"}
BESIDE |= {"q_proj_weight", "k_proj_weight", "v_proj_weight"}


def functional_call(
    where: Whereabouts, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, place: int
) -> Call | None:
    """What the module that runs now gave to the function; None where none runs."""
    module = where.module
    if module is None:
        return None
    arguments = {name: kept(part) for name, part in bound(FUNCTION, args, kwargs).items()}
    name = where.name_of(module)
    return Call(name, module, arguments, kept(output), place, Through.FUNCTIONAL)


def read(layer: Captured) -> SoftmaxAttention:
    """As ``torch.nn.MultiheadAttention`` with these weights."""
    return torch_attention.read(_as_module(layer))


def finish(
    layer: Captured, mixed: Shaped[Tensor, "*batch time output channel"]
) -> Shaped[Tensor, "*axes"]:
    """Heads side by side, projected, time first."""
    return torch_attention.finish(_as_module(layer), mixed)


def _as_module(layer: Captured) -> Captured:
    """The call as if a module of torch's had made it; the function takes time first."""
    given = layer.arguments
    weights = {name: given[name] for name in BESIDE if given.get(name) is not None}
    if given.get("use_separate_proj_weight"):
        weights.pop("in_proj_weight", None)
    weights |= {
        f"out_proj.{part}": weight
        for part in ("weight", "bias")
        if (weight := given.get(f"out_proj_{part}")) is not None
    }
    settings = SimpleNamespace(
        num_heads=given["num_heads"], add_zero_attn=given["add_zero_attn"], batch_first=False
    )
    return layer.replaced(weights=weights, module=settings)


ADAPTER = Adapter(families={}, read=read, finish=finish)
