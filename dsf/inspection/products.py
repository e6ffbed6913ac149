"""Products of two stacks of matrices, whatever function a module calls for them."""

import re
from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

PLAIN = {"matmul", "bmm"}
EQUATION = re.compile(r"^(\w+),(\w+)->(\w+)$")
STACK = 3
"""Axes a stack of matrices has at least; a matrix of two is a weight."""


@dataclass(frozen=True, eq=False)
class Product:
    """``left @ right``, and what it was multiplied by on the way.

    The axes in front of either may be those of ``batch`` or broadcast to them.

    Attributes:
        sources: the two arguments as they were passed, in the order of left and right.
        output: the product as a stack of matrices; another layout than the function's, perhaps.
    """

    left: Shaped[Tensor, "*lefts time inner"]
    right: Shaped[Tensor, "*rights inner read"]
    sources: tuple[Tensor, Tensor]
    output: Shaped[Tensor, "*batch time read"]
    factor: float = 1.0

    @property
    def transposed(self) -> "Product":
        """The same numbers as ``rightᵀ leftᵀ``."""
        return Product(
            left=self.right.mT,
            right=self.left.mT,
            sources=self.sources[::-1],
            output=self.output.mT,
            factor=self.factor,
        )


def flat(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments, those in lists as well (``torch.cat`` takes a list)."""
    parts = (each if isinstance(each, tuple | list) else (each,) for each in given)
    return tuple(part for several in parts for part in several)


def product(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Product | None:
    """The product that the torch function ``name`` made; None if it made none of two stacks."""
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
    """An einsum of two stacks that sums over one axis: the last two of what it puts out, or all
    but one of its axes, are rows and columns."""
    told = args[0].replace(" ", "") if args and isinstance(args[0], str) else ""
    equation = EQUATION.match(told)
    operands = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if equation is None or len(operands) != 2 or any(part.ndim < STACK for part in operands):
        return None
    first, second, out = equation.groups()
    summed = [axis for axis in first if axis in second and axis not in out]
    rows = [axis for axis in first if axis not in second and axis in out]
    columns = [axis for axis in second if axis not in first and axis in out]
    if len(summed) != 1 or len(rows) != 1 or len(columns) != 1:
        return None
    batch = [axis for axis in out if axis not in (*rows, *columns)]
    left = _laid_out(operands[0], first, [*batch, *rows, *summed])
    right = _laid_out(operands[1], second, [*batch, *summed, *columns])
    arranged = _laid_out(output, out, [*batch, *rows, *columns])
    if left is None or right is None or arranged is None:
        return None
    return Product(left, right, (operands[0], operands[1]), arranged)


def _laid_out(part: Tensor, axes: str, wanted: list[str]) -> Tensor | None:
    """``part`` with its axes in the order that is wanted, None if it has others."""
    if sorted(axes) != sorted(wanted):
        return None
    return part.permute([axes.index(axis) for axis in wanted])
