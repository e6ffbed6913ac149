"""How much each coefficient of a token mixer moves a number: its gradient times its value.

The shares of an attribution hold the coefficients of a run (queries and keys, steps, decays) and
share the number among the values that they mix. Here the same adjoint goes on into the
coefficients, through the softmax or the recurrence that is made of them.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.inspection.whole.head_layout import as_tokens, as_values
from dsf.mixers.base import axes_of

VALUE = "value"


def by_coefficients(
    mixer: Any,
    moved: Float[Tensor, "sample ..."],
    values: Float[Tensor, "sample ..."],
) -> dict[str, Float[Tensor, "sample ..."]]:
    """For every tensor of a mixer the gradient of ``<moved, response>``, times its entries.

    Args:
        moved: the adjoint at the response, in the axes of the mixer's values.
        values: the part of the values that is shared; what is left of them are biases.

    Returns:
        The axes of the coefficient; with an axis for the sample before them where all samples have
        the same.
    """
    samples = len(moved)
    given = {
        field.name: part.detach().requires_grad_()
        for field in fields(mixer)
        if isinstance(part := getattr(mixer, field.name), Tensor) and _has_gradient(part)
    }
    own = _of_samples(mixer, given, samples)
    with torch.enable_grad():
        live = replace(mixer, **given)
        response = as_tokens(respond(live.system(), live.signal()), live.value)
        numbers = (as_values(response, live.value) * moved).flatten(1).sum(dim=1)
        gradients = _gradients(numbers.sum(), {name: given[name] for name in own})
        alone = {name: part for name, part in given.items() if name not in own}
        several = [_gradients(number, alone) for number in numbers] if alone else []
    for name, part in alone.items():
        stacked = torch.stack([each[name] for each in several])
        gradients[name] = _joined(stacked) if _is_open(mixer, name, part, samples) else stacked
    return {
        name: _times(gradients[name], values if name == VALUE else part)
        for name, part in given.items()
    }


def _gradients(number: Shaped[Tensor, ""], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient in each tensor; zero where the number does not depend on it."""
    if not given:
        return {}
    found = torch.autograd.grad(number, [*given.values()], retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(part) if by is None else by
        for (name, part), by in zip(given.items(), found, strict=True)
    }


def _times(gradient: Tensor, part: Tensor) -> Tensor:
    """Their product entry by entry; a score of minus infinity, which hides a key, moves nothing."""
    product = gradient.conj() * torch.where(part.detach().isinf(), 0, part.detach())
    return product.real if product.is_complex() else product


def _has_gradient(part: Tensor) -> bool:
    return part.is_floating_point() or part.is_complex()


def _of_samples(mixer: Any, given: Mapping[str, Tensor], samples: int) -> Collection[str]:
    """The coefficients whose first axis counts the samples, as their annotations say."""
    axes = {field.name: axes_of(field.type) for field in fields(mixer)}
    return [
        name
        for name, part in given.items()
        if (axes[name] or "").startswith("*batch") and part.shape[:1] == (samples,)
    ]


def _is_open(mixer: Any, name: str, part: Tensor, samples: int) -> bool:
    """Whether nothing says if the first axis of a coefficient counts the samples."""
    (annotation,) = (field.type for field in fields(mixer) if field.name == name)
    return axes_of(annotation) is None and part.shape[:1] == (samples,)


def _joined(gradients: Shaped[Tensor, "sample ..."]) -> Shaped[Tensor, "..."]:
    """The gradients of all samples in one tensor, if each has entries of its own in it."""
    others = ~torch.eye(len(gradients), dtype=torch.bool, device=gradients.device)
    return gradients if bool(gradients[others].any()) else gradients.sum(dim=0)
