"""Finds queries, keys, scale and bias in the products, sums and masks that a module computes.

``product`` recognises a torch call that multiplies two stacks of matrices. ``changed`` follows the
``Scores`` of such a product, or the ``Normalised`` output of a softmax, through later torch calls.
``explained`` gives query, key, scale and bias that reproduce the weights, or the weights themselves
where something else was done to the scores.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dsf.inspection.capture.integrity import times_written
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.softmax.attention import as_bias

PLAIN = {"matmul", "bmm"}
PRODUCTS = {*PLAIN, "baddbmm", "einsum"}
EQUATION = re.compile(r"^([\w.]+),([\w.]+)->([\w.]+)$")
SPARE = "ZYXWVUTSRQPONMLKJIHGFEDCBA"
STACK = 3
"""The least number of axes of a stack of matrices; a tensor with two is taken for a weight."""


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product ``factor left @ right`` that a torch function computed.

    The leading axes of ``left`` and ``right`` are those of ``batch`` or broadcast to them.

    Attributes:
        sources: the two arguments as they were passed, in the order of left and right.
        output: the product as a stack of matrices, perhaps permuted from the function's output.
        factor: what the product was multiplied by in the same call.
        places: the axes of the function's output, counted from its end, that are those of time and
            read.
    """

    left: Shaped[Tensor, "*lefts time inner"]
    right: Shaped[Tensor, "*rights inner read"]
    sources: tuple[Tensor, Tensor]
    output: Shaped[Tensor, "*batch time read"]
    factor: float = 1.0
    places: tuple[int, int] = (-2, -1)

    @property
    def transposed(self) -> "Product":
        """The transposed product, ``rightᵀ leftᵀ``."""
        return Product(
            left=self.right.mT,
            right=self.left.mT,
            sources=self.sources[::-1],
            output=self.output.mT,
            factor=self.factor,
            places=self.places[::-1],
        )


def flat(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, with lists and tuples flattened (``torch.cat`` takes a list)."""
    parts = (each if isinstance(each, tuple | list) else (each,) for each in given)
    return tuple(part for several in parts for part in several)


def product(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Product | None:
    """The product that the torch function ``name`` computed; None if it is none of two stacks."""
    if name == "einsum":
        return _contracted(args, output)
    added = name == "baddbmm"
    if not added and name not in PLAIN:
        return None
    given = [part for part in (*args, *kwargs.values()) if isinstance(part, Tensor)]
    pair = given[-2:]
    if len(pair) < 2 or any(part.ndim < STACK for part in pair):
        return None
    left, right = pair
    factor = float(kwargs.get("alpha", 1.0)) if added else 1.0
    return Product(left, right, (left, right), output, factor)


def _contracted(args: tuple[Any, ...], output: Tensor) -> Product | None:
    """The matrix product in an einsum of two stacks that sums over one axis; None if it is none.

    An operand may lack axes of the batch, such as that of heads where all share their keys. Of the
    axes that only one operand has, that of its rows or columns is the last one of the output.
    """
    written = args[0].replace(" ", "") if args and isinstance(args[0], str) else ""
    equation = EQUATION.match(written)
    operands = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if equation is None or len(operands) != 2 or any(part.ndim < STACK for part in operands):
        return None
    names = [*equation.groups()]
    for place, part in enumerate((*operands, output)):
        missing = part.ndim - len(names[place].replace("...", ""))
        spare = "".join(letter for letter in SPARE if letter not in written)
        names[place] = names[place].replace("...", spare[len(spare) - missing :] if missing else "")
    first, second, out = names
    summed = [axis for axis in first if axis in second and axis not in out]
    rows = [axis for axis in out if axis in first and axis not in second]
    columns = [axis for axis in out if axis in second and axis not in first]
    if len(summed) != 1 or not rows or not columns or len({*out}) != len(out):
        return None
    row, column = rows[-1], columns[-1]
    batch = [axis for axis in out if axis not in (row, column)]
    left = _laid_out(operands[0], first, [*batch, row, *summed])
    right = _laid_out(operands[1], second, [*batch, *summed, column])
    arranged = _laid_out(output, out, [*batch, row, column])
    if left is None or right is None or arranged is None:
        return None
    places = out.index(row) - len(out), out.index(column) - len(out)
    return Product(left, right, (operands[0], operands[1]), arranged, places=places)


def _laid_out(part: Tensor, axes: str, wanted: list[str]) -> Tensor | None:
    """``part`` with its axes in the order of ``wanted``, of size 1 where it lacks one.

    None if it has other axes.
    """
    if any(axis not in wanted for axis in axes) or len({*axes}) != len(axes):
        return None
    there = part.permute([axes.index(axis) for axis in wanted if axis in axes])
    for place, axis in enumerate(wanted):
        if axis not in axes:
            there = there.unsqueeze(place)
    return there


MULTIPLIES = {"mul", "imul", "rmul", "multiply"}
DIVIDES = {"div", "truediv", "itruediv", "divide", "true_divide"}
# ADDS: what these functions add or mask is a bias of the scores. KEEPS: these keep all numbers.
ADDS = {"add", "iadd", "radd", "sub", "isub", "masked_fill", "where", "max", "maximum", "clamp"}
KEEPS = {"view", "reshape", "unflatten", "flatten", "squeeze", "unsqueeze", "contiguous", "clone"}
KEEPS |= {"to", "type", "type_as", "float", "double", "half", "bfloat16", "dropout"}


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores that a module computes from a product of queries and keys.

    Attributes:
        factor: what the scores were multiplied by so far: one number, or one for every head.
        plain: whether nothing but a factor and a bias was applied to them.
        laid_out: whether the tensor still has the axes of the product's output.
    """

    module: nn.Module | None
    product: Product
    factor: Tensor
    plain: bool = True
    laid_out: bool = True

    def summed_along(self, dim: int) -> "Scores | None":
        """The scores whose weights sum to one along an axis counted from the end; None if none do.

        That is the axis of the keys; where it is that of the rows, the product is the other way.
        """
        rows, columns = self.product.places if self.laid_out else (-2, -1)
        if dim == columns:
            return self
        turned = self.laid_out and dim == rows and columns != -1
        return replace(self, product=self.product.transposed) if turned else None


@dataclass(frozen=True, eq=False)
class Normalised:
    """The weights that a softmax makes of scores, or scores that are used as they are.

    Attributes:
        given, output: the input and output of the softmax.
        written: torch's version counter of ``output`` after the softmax; a higher one later shows
            an in-place change.
    """

    module: nn.Module | None
    given: Tensor
    output: Tensor
    scores: Scores
    written: int | None
    is_softmax: bool = True


def changed(
    scores: Scores | Normalised, name: str, given: tuple[Any, ...], output: Tensor
) -> Scores | Normalised:
    """The scores, or the weights, after the torch function ``name`` made ``output`` from them."""
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
    """Whether a factor may differ between the entries of one map."""
    if not isinstance(part, Tensor) or part.numel() == 1:
        return False
    return part.shape[-2:] != (1, 1)


def _of_heads(factor: Tensor, output: Tensor) -> Tensor:
    """A factor as one number, or as one for every map, ``map 1 1``."""
    factor = in_float64(factor)
    if factor.numel() == 1:
        return factor.reshape(())
    return factor.expand(*output.shape[:-2], 1, 1).flatten(0, -3)


def explained(weights: Normalised, made: Product) -> dict[str, Any]:
    """Query, key, scale and bias that reproduce the weights in ``made``, or those weights.

    Tensors have one leading axis for all maps, ``map time width``.
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
        query = in_float64(query) * scores.factor
    products = scale * in_float64(query) @ in_float64(key).mT
    bias = _bias(products, query, key, scale, weights.given)
    return {"query": query, "key": key.clone(), "scale": scale, "bias": bias}


def _are_used(weights: Normalised, used: Float[Tensor, "map time read"]) -> bool:
    """Whether the values are multiplied with the unchanged output of the softmax."""
    output = weights.output.detach()
    if output.numel() != used.numel() or times_written(output) != weights.written:
        return False
    return torch.equal(used, output.reshape(used.shape).to(used.dtype))


def _bias(
    products: Float[Tensor, "map time read"],
    query: Tensor,
    key: Tensor,
    scale: float,
    given: Tensor,
) -> Tensor | None:
    """What was added to the scaled products before softmax; None where that is only rounding.

    In half precision it is always kept, because there rounding is as large as some biases.
    """
    bias = as_bias(given.detach().reshape(products.shape)) - products
    if not bool((bias != 0).any()):
        return None
    shown = bias > -torch.inf
    longest = (in_float64(part).norm(dim=-1).max() for part in (query, key))
    largest = abs(scale) * math.prod(longest)
    coarsest = max(torch.finfo(part.dtype).eps for part in (key, given))
    rounding = 16 * coarsest * largest
    if coarsest <= torch.finfo(torch.float32).eps and bool((bias[shown].abs() <= rounding).all()):
        bias = bias.masked_fill(shown, 0)
        return bias if bool((~shown).any()) else None
    return bias
