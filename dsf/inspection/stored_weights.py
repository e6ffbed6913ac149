"""The stored weights and the input behind the map of a layer, for certificates of level real."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from dsf.certificates import StoredLayer
from dsf.inspection.entry import inspect
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.families.registry import known_modules
from dsf.inspection.softmax.rotary_projections import stored_rotary_attention


def stored_layer(
    model: nn.Module, name: str, *inputs: Any, head: int = 0, **named: Any
) -> StoredLayer:
    """What the map of one head, or of one channel, of a layer is made of in this run.

    The weights are those of the model; the input is what the module was given (for softmax
    attention with rotary positions also their cosines and sines), in the number type of the run.
    The map of the result is compared with that of the inspected layer.

    Args:
        model: a torch module.
        name: the path of the layer in the model, as an inspection names it.
        inputs, named: what the model is called with, for one sample without padding.
        head: which head, or channel where the layer has those.

    Raises:
        KeyError: if the inspection has no layer of that name.
        InspectionError: if the layer is no kind that a certificate can hold.
        ReconstructionError: if the map of the result is another one than that of the layer.

    >>> import dsf, torch
    >>> from dsf.inspection import stored_layer
    >>> from dsf.models import folder
    >>> from transformers import AutoModelForCausalLM
    >>> model = AutoModelForCausalLM.from_pretrained(folder("llama"))
    >>> tokens = torch.arange(6)[None]
    >>> layer = stored_layer(model, "model.layers.0.self_attn", input_ids=tokens)
    >>> dsf.certify.nonnegative(layer).verdict.value
    'PROVED'
    """
    module = model.get_submodule(name)
    seen: list[dict[str, Any]] = []

    def remember(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        bound = signature(module.forward).bind(*args, **named)
        seen.append(bound.arguments | bound.arguments.get("kwargs", {}))

    hook = module.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        with torch.no_grad():
            model(*inputs, **named)
    finally:
        hook.remove()
    found = inspect(model, *inputs, layers=name, checks="none", **named)[name]
    stored = _stored(model, name, module, seen[0], head)
    _compared(name, stored, found.map().flatten(0, -3)[head].cpu(), stored.parts["input"].dtype)
    return stored


def _stored(
    model: nn.Module, name: str, module: nn.Module, arguments: Mapping[str, Any], head: int
) -> StoredLayer:
    known = known_modules(model)
    hidden = arguments.get("hidden_states")
    if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[0] != 1:
        raise InspectionError(
            f"{name}: a stored layer needs one sample of hidden states with the axes 'sample time "
            "model'. Give the model one sample."
        )
    read = known[name][0].stored if name in known else stored_rotary_attention
    if read is None:
        raise InspectionError(
            f"{name}: no certificate from stored weights is offered for the family "
            f"'{known[name][1]}'. certify.nonnegative(layer.map()) speaks of the formed map."
        )
    return read(module, arguments, head)


def _compared(name: str, stored: StoredLayer, map: Tensor, dtype: torch.dtype) -> None:
    """The map of the layer was rebuilt in float64, from queries in the number type of the run."""
    apart = float((stored.map() - map).abs().max() / map.abs().max())
    if not apart <= 64 * torch.finfo(dtype).eps:
        raise ReconstructionError(
            f"{name}: the map of the stored weights and that of the inspected layer differ by "
            f"{apart:.1e}, so the layer does more than its stored kind, {stored.kind}, says."
        )
