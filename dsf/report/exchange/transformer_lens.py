"""Reads softmax attention from a TransformerLens activation cache; the library is not needed.

The cache may be any mapping from names to tensors: the queries, keys, values and pattern of every
attention are found by the names of their hooks.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import attention_map, respond
from dsf.inspection import InspectedLayer, Inspection, NothingCapturedError, ReconstructionError
from dsf.inspection.capture.precision import TOLERANCE
from dsf.inspection.rebuild import relative_error
from dsf.inspection.softmax.attention import attention
from dsf.mixers import SoftmaxAttention
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import has_axes, of_kind

PATTERN = "hook_pattern"


@checked
def from_transformer_lens(
    cache: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    tolerance: float | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
) -> Inspection:
    """The attentions in a cache, each rebuilt from its queries and keys.

    The rebuilt map is compared with the pattern and, where the cache has it, with ``hook_z``. Zero
    weights of a pattern are taken to be masked. If the cache has ``hook_attn_scores``, whatever the
    model adds to its scores (ALiBi, relative positions) becomes a bias.

    Args:
        cache: the cache of ``model.run_with_cache(...)``, with or without a batch axis.
        scale: the factor on the product of query and key, one over the model's ``cfg.attn_scale``;
            by default ``d_head ** -0.5``.
        softcap: the soft cap of the scores, if the model has one.
        tolerance: the largest relative error; by default one that suits the pattern's dtype.
        tokens: the text of every token, one sequence for each sample.

    Raises:
        NothingCapturedError: if there is no pattern in the cache.
        ReconstructionError: if queries and keys do not reproduce a pattern.

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 5, 2, 4).unbind()  # batch, position, head, d_head
        >>> scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 2
        >>> ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
        >>> pattern = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
        >>> names = [f"blocks.0.attn.hook_{name}" for name in ("q", "k", "v", "pattern")]
        >>> inspection = from_transformer_lens(dict(zip(names, (q, k, v, pattern))))
        >>> inspection[0].name, inspection[0].error < 1e-6, inspection[0].mixer.causal
        ('blocks.0.attn', True, True)
    """
    of_kind(
        "from_transformer_lens",
        "cache",
        cache,
        lambda given: hasattr(given, "keys") and hasattr(given, "__getitem__"),
        "the cache of model.run_with_cache(...)",
    )
    names = [name for name in map(str, cache.keys()) if name.endswith(PATTERN)]
    if not names:
        raise NothingCapturedError(
            f"from_transformer_lens: no name in the cache ends in '{PATTERN}'. Keep the attention "
            "patterns: call run_with_cache without names_filter."
        )
    layers = [
        _layer(_Parts(cache, name.removesuffix(PATTERN)), scale, softcap, tolerance)
        for name in names
    ]
    return Inspection(
        layers=tuple(layers),
        model="TransformerLens cache",
        tokens=None if tokens is None else tuple(tuple(sample) for sample in tokens),
    )


class _Parts:
    """The tensors of one attention in a cache, in float64, ``sample head ...``."""

    def __init__(self, cache: Any, prefix: str):
        self._cache, self.prefix = cache, prefix
        self._names = set(map(str, cache.keys()))

    def by_head(self, *hooks: str) -> Float[Tensor, "sample head time width"] | None:
        """The first of these hooks in the cache, with the head axis before the position."""
        part = next((part for hook in hooks if (part := self._raw(hook)) is not None), None)
        return None if part is None else self._batched(part, hooks[0]).transpose(1, 2)

    def pairs(self, hook: str) -> Float[Tensor, "sample head time read"] | None:
        """A hook with one number for every pair of positions; None if it is not in the cache."""
        part = self._raw(hook)
        return None if part is None else self._batched(part, hook)

    def dtype(self) -> torch.dtype:
        """The dtype of the pattern."""
        dtype: torch.dtype = self._cache[self.prefix + PATTERN].dtype
        return dtype

    def _raw(self, hook: str) -> Any:
        name = self.prefix + hook
        return self._cache[name] if name in self._names else None

    def _batched(self, part: Tensor, hook: str) -> Tensor:
        part = part.detach().to(torch.float64)
        part = part.unsqueeze(0) if part.ndim == 3 else part
        has_axes("from_transformer_lens", self.prefix + hook, part.shape, "sample a b c")
        return part


def _layer(
    parts: _Parts, scale: float | None, softcap: float | None, tolerance: float | None
) -> InspectedLayer:
    pattern = parts.pairs(PATTERN)
    query, key = parts.by_head("hook_rot_q", "hook_q"), parts.by_head("hook_rot_k", "hook_k")
    value = parts.by_head("hook_v")
    if pattern is None or query is None or key is None or value is None:
        raise NothingCapturedError(
            f"from_transformer_lens: {parts.prefix}{PATTERN} is in the cache, but not all of "
            f"{parts.prefix}hook_q, hook_k and hook_v. Keep these in the cache, too."
        )
    heads = query.shape[1]
    key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    plain = attention(
        query, key, value, _bias(parts, pattern, factor * query @ key.mT, softcap), scale=factor
    )
    mixer = replace(plain, softcap=softcap)
    error = _error(mixer, pattern, parts.by_head("hook_z"))
    limit = TOLERANCE.get(parts.dtype(), 1e-5) if tolerance is None else tolerance
    if not error <= limit:
        raise ReconstructionError(
            f"{parts.prefix}{PATTERN}: queries and keys give another pattern, or values another "
            f"hook_z; the relative difference is {error:.1e}, above the tolerance of {limit:.0e}. "
            "Pass scale= (one over cfg.attn_scale) and softcap= of the model, or keep "
            "hook_attn_scores in the cache if the model adds a bias to its scores. In training "
            "mode a pattern has dropout: call model.eval() first."
        )
    return InspectedLayer(
        name=parts.prefix.rstrip("."),
        family="softmax",
        mixer=mixer,
        axes=("sample", "head"),
        error=error,
        tolerance=limit,
    )


def _bias(parts: _Parts, pattern: Tensor, products: Tensor, softcap: float | None) -> Tensor:
    """The bias of the scores, ``-inf`` where the pattern is zero."""
    scores = parts.pairs("hook_attn_scores")
    capped = products if softcap is None else softcap * torch.tanh(products / softcap)
    seen = pattern != 0
    added = torch.zeros_like(pattern)
    if scores is not None:
        difference = torch.where(seen, scores - capped, 0)
        rounding = 8 * torch.finfo(parts.dtype()).eps * torch.where(seen, scores, 0).abs().max()
        added = torch.where(difference.abs() <= rounding, 0, difference)
    return added.masked_fill(~seen, -torch.inf)


def _error(mixer: SoftmaxAttention, pattern: Tensor, mixed: Tensor | None) -> float:
    system = mixer.system()
    errors = [relative_error(attention_map(system), pattern)]
    if mixed is not None:
        errors.append(relative_error(respond(system, mixer.signal()).squeeze(-2), mixed))
    return max(errors)
