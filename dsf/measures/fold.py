"""Reductions of a map, written once as folds over blocks of rows.

They take a matrix, a system whose map never fits, or the blocks themselves.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from dsf.evaluate import Rows, row_blocks
from dsf.evaluate.rows import SIZE
from dsf.evaluate.scaled_norms import norm, safe_range
from dsf.systems.algebra import converted
from dsf.systems.composite import Operator

Map = Inexact[Tensor, "*batch rows columns"]
MapOrSystem = Map | Operator | Iterable[Rows]
Look = Callable[[Rows], Tensor]
NARROW = (torch.float16, torch.bfloat16, torch.complex32)
ENTRIES = 1 << 25  # of one block of rows, over the whole batch: 128 MB in float32


def blocks(map_or_system: MapOrSystem, *, overwrites: bool = True) -> Iterator[Rows]:
    """Blocks of rows, with fewer rows at a time for large batches and long sequences.

    A block may reuse the memory of the one before, so it must not be stored, unless ``overwrites``
    is False. Numbers of 16 and 8 bits are widened to float32, in which sums of their squares fit.

    Raises:
        TypeError: if the weights are integers or booleans, or it is not a map.
        ValueError: if the map has no rows or no columns.
    """
    source, rows = widened(map_or_system), None
    if isinstance(source, Tensor) and source.ndim >= 2:
        _measurable(source)
    sizes: dict[str, Any] = {}
    if isinstance(source, Operator):
        columns = getattr(source, "read_steps", source.steps) * source.input_size
        row = source.batch.numel() * source.output_size * columns
        sizes = {"size": min(SIZE, max(1, ENTRIES // max(row, 1))), "overwrites": overwrites}
    for rows in row_blocks(source, **sizes):
        if not isinstance(rows, Rows):
            raise TypeError(
                "measures: a map is a tensor, a system or blocks of rows "
                f"(dsf.evaluate.row_blocks), but it is {type(map_or_system).__name__}."
            )
        _measurable(rows.weights)
        yield rows._replace(weights=_wide(rows.weights).resolve_conj().resolve_neg())
    if rows is None:
        raise ValueError("measures: got no blocks of rows. Pass at least one.")


Source = TypeVar("Source", bound=MapOrSystem)


def widened(map_or_system: Source) -> Source:
    """A map or a system in numbers of 16 bits in float32, anything else as it is."""
    if isinstance(map_or_system, Tensor):
        return cast("Source", _wide(map_or_system))
    if isinstance(map_or_system, Operator) and map_or_system.dtype in NARROW:
        return converted(map_or_system, dtype=torch.float32)
    return map_or_system


def _wide(weights: Tensor) -> Tensor:
    dtype = weights.dtype
    if dtype is torch.complex32:
        return weights.to(torch.complex64)
    return weights.float() if dtype.is_floating_point and dtype.itemsize < 4 else weights


def _measurable(weights: Tensor) -> None:
    if not (weights.is_floating_point() or weights.is_complex()):
        kind = str(weights.dtype).removeprefix("torch.")
        raise TypeError(
            f"measures: the weights of the map have the number type {kind}, but measures need real "
            f"or complex numbers. Convert the map first, for example with .double()."
        )
    if 0 in weights.shape[-2:]:
        rows, columns = weights.shape[-2:]
        raise ValueError(
            f"measures: the map has {rows} rows and {columns} columns, so there is nothing to "
            f"measure. It needs at least one token."
        )


def a_token(measure: str, name: str, token: int, map_or_system: object) -> int:
    """``token``, if it is one of those that the map reads, as far as they are known beforehand."""
    tokens = None
    if isinstance(map_or_system, Tensor):
        tokens = map_or_system.shape[-1]
    elif isinstance(map_or_system, Operator):
        tokens = getattr(map_or_system, "read_steps", map_or_system.steps)
    if token < 0 or (tokens is not None and token >= tokens):
        last = "" if tokens is None else f" to {tokens - 1}"
        raise IndexError(f"{measure}: '{name}' must be a token from 0{last}, but it is {token}.")
    return min(token, 2**62)  # a larger one is none, and no number of torch


def all_safe(largest: np.ndarray) -> bool:
    """Whether sums of squares of rows with these largest magnitudes keep all their digits."""
    least, most = safe_range(torch.float64)
    return bool(((largest == 0) | ((largest >= least) & (largest <= most))).all())


def frobenius(parts: Iterable[Tensor]) -> Tensor:
    """The Frobenius norm of a map over ``*batch``, from its blocks of rows."""
    return reduce(torch.hypot, (norm(part, dim=(-2, -1)) for part in parts))


def per_row(map_or_system: MapOrSystem, look: Look) -> Shaped[Tensor, "*numbers rows"]:
    return torch.cat([look(rows) for rows in blocks(map_or_system)], dim=-1)


def total(map_or_system: MapOrSystem, look: Look) -> Tensor:
    return reduce(torch.add, (look(rows) for rows in blocks(map_or_system)))


def real(rows: Rows, measure: str) -> Tensor:
    """The weights, which must be real for ``measure`` to be defined."""
    if rows.weights.is_complex():
        raise ValueError(
            f"{measure}: signs need a real map, but 'map_or_system' is complex. Measure the "
            f"magnitudes (map.abs()) or the real part (map.real) instead."
        )
    return rows.weights
