"""What happens to the scores of an attention between the product that made them and softmax."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.products import Product
from dsf.inspection.seal import version
from dsf.inspection.softmax import as_bias

MULTIPLIES = {"mul", "imul", "rmul", "multiply"}
DIVIDES = {"div", "truediv", "itruediv", "divide", "true_divide"}
# What these add or hide is a bias of the scores; the others keep all numbers.
ADDS = {"add", "iadd", "radd", "sub", "isub", "masked_fill", "where", "max", "maximum", "clamp"}
KEEPS = {"view", "reshape", "unflatten", "flatten", "squeeze", "unsqueeze", "contiguous", "clone"}
KEEPS |= {"to", "type", "type_as", "float", "double", "half", "bfloat16", "dropout"}


@dataclass(frozen=True, eq=False)
class Scores:
    """What became of a product of queries and keys.

    Attributes:
        factor: what the scores were multiplied by since, a number or one for every head.
        plain: whether all that was done to them is a factor and a bias.
    """

    module: nn.Module | None
    product: Product
    factor: Tensor
    plain: bool = True


@dataclass(frozen=True, eq=False)
class Normalised:
    """What became of the output of a softmax.

    Attributes:
        given, output: of the softmax.
        written: the version of ``output`` then; a later one was written into since.
    """

    module: nn.Module | None
    given: Tensor
    output: Tensor
    scores: Scores
    written: int | None


def changed(
    scores: Scores | Normalised, name: str, given: tuple[Any, ...], output: Tensor
) -> Scores | Normalised:
    """The scores, or the weights, after the torch function ``name`` made ``output`` of them."""
    if isinstance(scores, Normalised) or name in ADDS or name in KEEPS:
        return scores
    if name in MULTIPLIES or name in DIVIDES:
        others = [part for part in given if isinstance(part, Tensor | int | float)][:2]
        other = next((part for part in others[::-1] if not _has_columns(part)), None)
        if other is not None and _has_columns(others[0]) != _has_columns(others[-1]):
            factor = _of_heads(other, output) if isinstance(other, Tensor) else float(other)
            times = factor if name in MULTIPLIES else 1 / factor
            return replace(scores, factor=scores.factor * times)
    return replace(scores, plain=False)


def _has_columns(part: Any) -> bool:
    """Whether a factor differs between the entries of one map."""
    if not isinstance(part, Tensor) or part.numel() == 1:
        return False
    return part.shape[-2:] != (1, 1)


def _of_heads(factor: Tensor, output: Tensor) -> Tensor:
    """One number, or one for every map."""
    factor = factor.detach().double()
    if factor.numel() == 1:
        return factor.reshape(())
    return factor.expand(*output.shape[:-2], 1, 1).flatten(0, -3)


def explained(weights: Normalised, made: Product) -> dict[str, Any]:
    """Query, key, scale and bias that give the weights in ``made``, or those weights themselves.

    One map after the other, ``map time width``.
    """
    used, scores = made.left.detach().flatten(0, -3), weights.scores
    if not scores.plain or not _are_used(weights, used):
        return {"weights": used.clone()}
    leading = scores.product.output.shape[:-2]
    left, right = scores.product.left.detach(), scores.product.right.detach().mT
    query, key = (part.expand(*leading, *part.shape[-2:]).flatten(0, -3) for part in (left, right))
    scale, query = 1.0, query.clone()
    if scores.factor.numel() == 1:
        scale = scores.factor.item()
    else:
        query = query.double() * scores.factor
    bias = _bias(scale * query.double() @ key.double().mT, query, key, scale, weights.given)
    return {"query": query, "key": key.clone(), "scale": scale, "bias": bias}


def _are_used(weights: Normalised, used: Float[Tensor, "map time read"]) -> bool:
    """Whether the values are multiplied with what softmax put out, one map after the other."""
    output = weights.output.detach()
    if output.numel() != used.numel() or version(output) != weights.written:
        return False
    return torch.equal(used, output.reshape(used.shape).to(used.dtype))


def _bias(
    products: Float[Tensor, "map time read"],
    query: Tensor,
    key: Tensor,
    scale: float,
    given: Tensor,
) -> Tensor | None:
    """What was added to the products before softmax; None where that is rounding.

    In half precision it is always kept: there, rounding is as large as some biases.
    """
    bias = as_bias(given.detach().reshape(products.shape)) - products
    if not bool((bias != 0).any()):
        return None
    shown = bias > -torch.inf
    largest = abs(scale) * query.double().norm(dim=-1).max() * key.double().norm(dim=-1).max()
    coarsest = max(torch.finfo(part.dtype).eps for part in (key, given))
    rounding = 16 * coarsest * largest
    if coarsest <= torch.finfo(torch.float32).eps and bool((bias[shown].abs() <= rounding).all()):
        bias = bias.masked_fill(shown, 0)
        return bias if bool((~shown).any()) else None
    return bias
