"""Runs a model whose attention keeps a part of its keys: its cache, and a copy without weights.

The copy shares every weight with the model that it was made of. Its softmax attention is reached
through transformers' attention interface; a cache layer hands itself to the attention in place of
the keys, since what a query reads differs from group to group.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dsf.inspection.errors import InspectionError
from dsf.inspection.model_input import explained
from dsf.interventions.kept_keys import (
    IGNORED,
    KeptForm,
    KeptGroups,
    Maps,
    StateFeatures,
    full_precision,
)

NAME = "dsf_linearised"
"""Name under which the attention is registered with transformers."""
ATTENTION = "dsf_attention"
"""Attribute of a module whose attention is replaced: a function with the interface's arguments."""
UNREAD = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Options of the attention interface that change the map in ways which no form has."""

GroupForms = Sequence[tuple[KeptForm, StateFeatures | None]]
"""For every group of a layer its form, with the features of its state if it has one."""


class LinearisedLayer(CacheLayerMixin):  # type: ignore[misc]
    """The cache of one softmax layer: one part for all groups of the same form."""

    is_sliding = False
    is_croppable = False

    def __init__(self, forms: GroupForms) -> None:
        super().__init__()
        self.parts = []
        for form in dict.fromkeys(form for form, _ in forms):
            groups = [number for number, (other, _) in enumerate(forms) if other == form]
            features = [each for _, each in (forms[group] for group in groups) if each is not None]
            self.parts.append(
                KeptGroups(form, groups, StateFeatures.stacked(features) if features else None)
            )

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: every part takes its device and number type from the first keys."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Any, Tensor]:
        """Return the new keys with this layer, for the attention of the copy, and the values."""
        self.is_initialized = True
        return (self, key_states), value_states

    def read(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Return the response of every query head, with the axes (sample, time, head, value)."""
        shared = query.shape[1] // key.shape[1]
        grouped = query.unflatten(1, (key.shape[1], shared))
        if len(self.parts) == 1:
            response = self.parts[0].read(grouped, key, value, scale)
        else:
            several = [part.groups for part in self.parts]
            order, sizes = torch.tensor([*chain(*several)], device=key.device), [*map(len, several)]
            given = (grouped, key, value)
            by_part = (each.index_select(1, order).split(sizes, dim=1) for each in given)
            pairs = zip(self.parts, *by_part, strict=True)
            response = torch.cat([part.read(*some, scale) for part, *some in pairs], dim=1)
            response = response.index_select(1, order.argsort())
        return response.flatten(1, 2).transpose(1, 2)

    def get_seq_length(self) -> int:
        """Return the number of tokens that were read, kept or not."""
        return self.parts[0].seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of columns of a mask over all tokens, and its first."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: any number of tokens can be read."""
        return -1

    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        self.is_initialized = False
        for part in self.parts:
            part.tensors, part.seen = {}, 0

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        for part in self.parts:
            part.tensors = {name: change(each) for name, each in part.tensors.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._each(lambda each: each.index_select(0, beam_idx.to(each.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda each: each.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda each: each[indices])

    def crop(self, tokens_to_remove: int) -> None:
        """Raise an error: what was forgotten does not come back."""
        raise ValueError(
            f"crop: expected a cache that keeps all tokens, got a linearised one and "
            f"{tokens_to_remove} tokens to remove. Read the shorter text anew."
        )


class LinearisedCache(DynamicCache):  # type: ignore[misc]
    """The cache of a linearised model; layers that are not in the plan have transformers' own."""

    def __init__(self, config: Any, forms: Mapping[int, GroupForms]) -> None:
        super().__init__(config=config)
        for number, each in forms.items():
            self.layers[number] = LinearisedLayer(each)

    @property
    def bytes(self) -> int:
        return cache_bytes(self)


def cache_bytes(cache: Any) -> int:
    return sum(
        layer.bytes
        if isinstance(layer, LinearisedLayer)
        else sum(
            each.untyped_storage().nbytes()
            for each in vars(layer).values()
            if isinstance(each, Tensor) and each.ndim > 2
        )
        for layer in cache.layers
    )


def _planned_attention(
    path: str,
    forms: GroupForms,
    _: nn.Module,
    query: Tensor,
    key: Any,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Return the response, with the axes (sample, time, head, value), and no map."""
    if mask is not None and not bool(mask[..., -1, :].all()):
        raise ValueError(
            f"{path}: 'attention_mask' expected texts without padding, got a mask that hides "
            "tokens. Run texts of different lengths one by one."
        )
    if value.shape[1] != len(forms):
        raise ValueError(
            f"{path}: expected {len(forms)} key-value groups, as the plan has, got "
            f"{value.shape[1]}. Apply the plan to the model it was made of."
        )
    if isinstance(key, Tensor):  # without a cache
        layer = LinearisedLayer(forms)
        if key.shape[-2] != query.shape[-2]:
            raise TypeError(
                f"{path}: 'cache' expected a LinearisedCache, got one with keys of its own. Leave "
                "it out: the first call makes one."
            )
    else:
        layer, key = key
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return layer.read(query, key, value, scale), None


def _attention(module: nn.Module, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    attention: Any = getattr(module, ATTENTION, None) or sdpa_attention_forward
    response: tuple[Tensor, Tensor | None] = attention(module, *inputs, **options)
    return response


def _with_a_cache(
    forms: Mapping[int, GroupForms], model: Any, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hook before a forward pass: a linearised cache where the model would make its own."""
    takes = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"
    names = [name for name in ("cache", "past_key_values") if named.get(name) is not None]
    name, cache = (names[0], named[names[0]]) if names else (takes, None)
    uses = named.get("use_cache")
    uses = getattr(model.config, "use_cache", False) if uses is None else uses
    if isinstance(cache, LinearisedCache) or (cache is None and not uses):
        return inputs, named
    if cache is not None and cache.get_seq_length() > 0:
        raise TypeError(
            f"linearised model: '{name}' expected a LinearisedCache, got {type(cache).__name__} "
            "with tokens in it. Read the text from its beginning."
        )
    return inputs, {**named, name: LinearisedCache(model.config, forms)}


def twin(model: Any, attentions: Mapping[str, Any]) -> Any:
    """Return a copy of a model that shares its weights and has other attentions."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    shared = {id(each): each for each in model.parameters()}
    made = copy.deepcopy(model, shared).eval()
    for path, attention in attentions.items():
        setattr(made.get_submodule(path), ATTENTION, attention)
    for module in made.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = NAME
    return made


def linearised(model: Any, forms: Mapping[str, GroupForms]) -> Any:
    """Return a copy of a model that shares its weights and keeps what the forms keep."""
    made = twin(
        model, {path: partial(_planned_attention, path, each) for path, each in forms.items()}
    )
    numbered = {made.get_submodule(path).layer_idx: each for path, each in forms.items()}
    made.register_forward_pre_hook(partial(_with_a_cache, numbered), with_kwargs=True)
    # its cache is what the copy is made for, also where the model was trained without one
    for config in (made.config, getattr(made, "generation_config", None)):
        if config is not None:
            config.use_cache = True
    return made


def recorded(
    model: Any,
    text: Tensor,
    labels: Tensor,
    planned: Mapping[str, GroupForms] | None = None,
) -> dict[str, Maps]:
    """Run the model on one text, and return what its softmax layers did, by path."""
    found: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def attention(
        path: str,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if any(options.get(name) is not None for name in UNREAD) or mask is not None:
            return sdpa_attention_forward(
                module, query, key, value, mask, scaling=scaling, **options
            )
        if path in found or not getattr(module, "is_causal", True):
            raise InspectionError(
                f"linearise: {path} expected one causal call for a text, got another. Such a layer "
                "cannot keep a part of its keys."
            )
        shared = query.shape[1] // key.shape[1]
        keys, values = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        response = scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scaling)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if planned is not None and path in planned:
            under_plan = LinearisedLayer(planned[path]).read(query, key, value, scale)
            response = (response + under_plan.transpose(1, 2)) / 2
        gate = torch.zeros_like(response, requires_grad=True)
        grouped = (query[0] * scale).detach().unflatten(0, (key.shape[1], shared))
        found[path] = (grouped, key[0].detach(), value[0].detach(), gate)
        return (response + gate).transpose(1, 2), None

    modules: dict[str, Any] = dict(model.named_modules())
    paths = [name for name, module in modules.items() if hasattr(module, "layer_idx")]
    copied = twin(model, {path: partial(attention, path) for path in paths})
    named = {"input_ids": text[None], "use_cache": False}
    with torch.enable_grad():
        with explained(copied, (), named):
            logits = copied(**named).logits[0]
        if not found:
            raise InspectionError(
                "linearise: 'model' expected softmax attention through transformers' attention "
                "interface, without windows, soft caps and position biases of its own, got "
                f"{type(model).__name__}, which has none. For recurrent layers there is "
                "dsf.interventions.reduce_states."
            )
        caches = DynamicCache(config=copied.config).layers
        for path in found:
            if isinstance(caches[modules[path].layer_idx], LinearAttentionCacheLayerMixin):
                raise InspectionError(
                    f"linearise: {path} expected a cache of keys and values alone, got one that "
                    "holds a recurrent state as well, of which no part can be kept."
                )
        loss = cross_entropy(full_precision(logits[:-1]), labels[1:], ignore_index=IGNORED)
        gradients = torch.autograd.grad(loss, [gate for *_, gate in found.values()])
    counted = int((labels[1:] != IGNORED).sum())
    return {
        path: Maps(query, key, value, gradient[0].unflatten(0, query.shape[:2]), counted)
        for (path, (query, key, value, _)), gradient in zip(found.items(), gradients, strict=True)
    }
