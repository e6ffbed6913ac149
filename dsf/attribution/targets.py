"""What is attributed: a token's logit, a difference of two, or any linear functional, as a tensor.

A target becomes a functional: a tensor of the shape of the logits (or of a stream), whose inner
product with them is the number that is attributed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dsf.attribution.affine_steps import Functional, paired
from dsf.inspection.capture.containers import tensors_in
from dsf.inspection.capture.modes import Heard
from dsf.inspection.recording import Leaving

Target = int | str | Sequence[int] | Sequence[str] | Tensor | Callable[[Tensor], Tensor]
Positions = int | Sequence[int] | Tensor
Shown = Bool[Tensor, "sample time"] | None
"""The tokens of the input that are not padding; None for all."""
PLACED_AXES = 3
"""Number of axes of logits, or of a stream, with tokens on the second."""
MIN_LOGIT_AXES = 2
"""Minimum number of axes of logits: a row of classes for every sample."""
LINEAR_TOL = 1e-8
"""Maximum relative difference from a linear functional that rounding explains."""


def put_out(result: Any) -> Tensor | None:
    """The logits of a model's output, or its first tensor that is not a single number."""
    logits = result.get("logits") if isinstance(result, Mapping) else None
    if logits is not None:
        return logits
    parts = tensors_in(result)
    return next((part for part in parts if part.ndim), parts[0] if parts else None)


def functional_of(
    target: Target,
    against: Target | None,
    position: Positions,
    logits: Tensor,
    tokenizer: Any | None,
    shown: Shown = None,
) -> Functional:
    """The functional of ``target``, minus that of ``against``, at a position of ``logits``."""
    if logits.ndim < MIN_LOGIT_AXES or (logits.ndim > PLACED_AXES and not callable(target)):
        raise ValueError(
            f"what the model returns has the sizes {tuple(logits.shape)}, but logits have the axes "
            "'sample class' or 'sample time class'. Have the model return one row for every "
            "sample; from more axes, a function as 'target' may take one number for each."
        )
    if callable(target):
        if against is not None:
            raise ValueError(
                "'against' goes with a token, but 'target' is a function. Let the "
                "function itself return the difference."
            )
        return _of_function(target, logits)
    if target is None:
        raise TypeError(
            "'target' is None, but something has to be attributed: a token's number or "
            "text, or a function of the logits."
        )
    places = _places(logits, position, shown)
    weights = logits.new_zeros(logits.shape[0], logits.shape[-1])
    for sign, tokens in ((1.0, target), (-1.0, against)):
        if tokens is not None:
            ids = _ids(tokens, logits, tokenizer)
            places_of = torch.arange(len(ids), device=logits.device), ids
            if bool((taken := weights[places_of] != 0).any()):
                sample = int(taken.nonzero()[0])
                raise ValueError(
                    f"'target' and 'against' are both the token {int(ids[sample])} in "
                    f"sample {sample}, and a logit less itself is 0. Give another token as "
                    "'against'."
                )
            weights[places_of] += sign
    return Functional(weights) if logits.ndim < PLACED_AXES else _at(places, weights)


def or_predicted(
    target: Target | None, against: Target | None, logits: Tensor, position: Positions, shown: Shown
) -> tuple[Target, Target | None]:
    """Return both, or without a target the predicted token of every sample and its runner-up."""
    if target is not None:
        return target, against
    rows = logits
    if logits.ndim >= PLACED_AXES:
        rows = logits[list(range(len(logits))), _places(logits, position, shown)]
    if rows.shape[-1] < 2:
        raise ValueError(
            "'target' expected a number or a function of the logits, got None: logits of the sizes "
            f"{tuple(logits.shape)} have no predicted token and runner-up."
        )
    predicted, runner_up = rows.topk(2, dim=-1).indices.unbind(-1)
    return predicted.tolist(), runner_up.tolist() if against is None else against


def measured(
    target: Target,
    against: Target | None,
    position: Positions,
    logits: Tensor,
    tokenizer: Any | None,
    shown: Shown = None,
) -> Callable[[Tensor], Float[Tensor, " sample"]]:
    """Return the number of interest as a function of logits, which need not be linear."""
    if not callable(target) or against is not None:
        return functional_of(target, against, position, logits, tokenizer, shown).pair
    number = target

    def of_logits(changed: Tensor) -> Tensor:
        value = number(changed)
        _check_one_for_each(value, len(changed))
        return value.reshape(-1)

    read: list[Any] = []
    with Leaving(read.append), Heard(lambda _, *given: read.extend(tree_leaves(given[:2]))):
        of_logits(logits)
    if not any(part is logits for part in read):
        raise ValueError(
            "'target' expected a function of the logits, got one that does not look at them, so "
            "that nothing moves its number. Compute it from its argument."
        )
    return of_logits


def _check_one_for_each(value: Any, samples: int) -> None:
    if not isinstance(value, Tensor) or value.numel() != samples:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"a target function must return one number for each of the {samples} "
            f"samples, but it returned {found}."
        )


def along(
    vector: Tensor,
    stream: Float[Tensor, "sample time *width"],
    position: Positions,
    shown: Shown = None,
) -> Functional:
    width = stream.shape[2:]
    if vector.shape not in (width, (stream.shape[0], *width)):
        raise ValueError(
            f"a vector over a stream must have the shape {tuple(width)}, or "
            f"{(stream.shape[0], *width)} with one vector for each sample, but it has "
            f"{tuple(vector.shape)}."
        )
    if vector.is_complex() or not bool(vector.isfinite().all()):
        raise ValueError("a vector over a stream must be real and finite, but it is not.")
    weights = vector.to(stream).expand(stream.shape[0], *width)
    return _at(_places(stream, position, shown), weights)


def _at(places: Sequence[int], weights: Tensor) -> Functional:
    first, stop = min(places), max(places) + 1
    placed = weights.new_zeros(len(weights), stop - first, *weights.shape[1:])
    placed[list(range(len(placed))), [place - first for place in places]] = weights
    return Functional(placed, (slice(None), slice(first, stop)))


def _places(logits: Tensor, position: Positions, shown: Shown) -> list[int]:
    """One position for every sample, counted from the first token."""
    several = _for_each("position", position, len(logits))
    if any(isinstance(one, bool) or not hasattr(one, "__index__") for one in several):
        raise TypeError(f"position={position!r}, but it is a whole number.")
    if logits.ndim == 2:  # one row of classes for every sample
        return [0] * len(logits)
    steps = logits.shape[1]
    known = shown is not None and tuple(shown.shape) == tuple(logits.shape[:2])
    found = []
    for sample, one in enumerate(several):
        tokens = shown[sample].nonzero().flatten().tolist() if known else []  # type: ignore[index]
        stop = tokens[-1] + 1 if tokens else steps
        place = one + stop if one < 0 else one
        if not 0 <= place < steps:
            raise IndexError(
                f"position={one}, but there are {steps} positions; give one from 0 to "
                f"{steps - 1}, or from -{stop} to -1 counted from the end."
            )
        if tokens and place not in tokens:
            raise ValueError(
                f"position={one} of sample {sample} is padding. Give one from "
                f"{tokens[0]} to {tokens[-1]}, or one for each sample: position=[...]."
            )
        found.append(place)
    return found


def _for_each(name: str, given: Any, samples: int) -> list[Any]:
    """One for every sample, of a tensor, an array or a list, or the one that is given."""
    given = given.reshape(-1).tolist() if hasattr(given, "reshape") else given
    several = list(given) if isinstance(given, list | tuple | range) else [given]
    if len(several) not in (1, samples):
        raise ValueError(
            f"{name!r} expected one, or one for each of the {samples} samples, got {len(several)}."
        )
    return several * samples if len(several) == 1 else several


def _of_function(function: Callable[[Tensor], Tensor], logits: Tensor) -> Functional:
    """The gradient of ``function``, which is tried to be linear and to treat samples separately."""
    with torch.inference_mode(False), torch.enable_grad():
        given = logits.detach().clone().requires_grad_()
        value = function(given)
        _check_one_for_each(value, logits.shape[0])
        if not value.requires_grad:
            raise ValueError("'target' does not depend on the logits.")
        (functional,) = torch.autograd.grad(value.sum(), given, materialize_grads=True)
    if not bool(functional.isfinite().all()):
        raise ValueError(
            "the target function has a slope in the logits that is not finite, so its "
            "value is not a sum of shares."
        )
    for tried in (logits, logits.flip(-1).square() + 1):
        expected = paired(functional, tried)
        scale = paired(functional, tried, absolute=True).clamp_min(1e-300)
        if bool(((function(tried).reshape(-1) - expected).abs() > LINEAR_TOL * scale).any()):
            raise ValueError(
                "the target function is not linear in the logits (it may not take a "
                "softmax or a logarithm, or add a constant), so shares cannot sum to it. Use "
                "a logit or a difference of logits."
            )
    if functional.ndim < PLACED_AXES or not bool(functional.any()):
        return Functional(functional)
    places = functional.flatten(2).any(dim=-1).any(dim=0).nonzero()
    some = slice(None), slice(int(places[0]), int(places[-1]) + 1)
    return Functional(functional[some], some)


def _ids(tokens: Any, logits: Tensor, tokenizer: Any | None) -> Shaped[Tensor, " sample"]:
    size = logits.shape[-1]
    ids = [_id(token, tokenizer) for token in _for_each("target", tokens, len(logits))]
    wrong = [number for number in ids if not 0 <= number < size]
    if wrong:
        raise ValueError(
            f"the token {wrong[0]} is none of the {size} that the model has logits for."
        )
    return torch.tensor(ids, device=logits.device)


def _id(token: Any, tokenizer: Any | None) -> int:
    if isinstance(token, bool) or not isinstance(token, int | str):
        raise TypeError(
            f"a target is a token's number or text, a function of the logits, or (with "
            f"'stream') a vector, but it is {type(token).__name__}."
        )
    if isinstance(token, int):
        return token
    if tokenizer is None:
        raise ValueError(
            f"the target {token!r} is a text, but there is no tokenizer to read it. "
            "Give the token's number, pass tokenizer=..., or a folder that has a tokenizer."
        )
    found = tokenizer.encode(token, add_special_tokens=False)
    if len(found) != 1:
        pieces = [tokenizer.decode([each]) for each in found]
        raise ValueError(
            f"{token!r} is {len(found)} tokens ({', '.join(map(repr, pieces))}), but a "
            "target is one. Many words start with a space: ' Paris' is another token than 'Paris'."
        )
    number: int = found[0]
    unknown = getattr(tokenizer, "unk_token", None)
    if number == getattr(tokenizer, "unk_token_id", None) and token != unknown:
        raise ValueError(
            f"the model knows no token {token!r}: it becomes {unknown!r}, "
            "as of every text that it does not know. Give a token that it knows."
        )
    return number
