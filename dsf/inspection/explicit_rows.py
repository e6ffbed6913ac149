"""The response of attention by rows of its map, as the map is shown.

Softmax attention without bias responds by a fused kernel that never forms the rows. Its module in
float64 calls the same kernel, so a comparison of the two says nothing about the map. Therefore the
response that is compared is the rows of the map times the values: all rows of short sequences, and
of long ones a sample in windows spread evenly from the first row to the last. The other rows are
not computed at all where the kernel would be what computes them.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.evaluate import respond
from dsf.evaluate.cache import whole_rows
from dsf.evaluate.rows import blocks_between
from dsf.systems.composite import PANEL, ExplicitMap, Operator
from dsf.systems.softmax_rows import PairRows, SoftmaxRows
from dsf.systems.system import System

EVERY = 256
"""So many rows are all multiplied out."""
WINDOWS, ROWS = 8, 8
"""Of more rows so many windows of so many rows are."""


def response_by_rows(
    system: Operator, signal: Shaped[Tensor, "*batch read input channel"], *, whole: bool = True
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response of a system, where its map is made of scores by rows of the map.

    Args:
        whole: whether the other rows are computed too; they are NaN where a fused kernel would be
            all that computes them.
    """
    source = _source(system)
    if not isinstance(source, PairRows) or _remembers(system):
        return respond(system, signal)
    values, found = signal.squeeze(-2), None
    if system.steps > EVERY:
        found = (
            respond(system, signal) if whole or not leaves_out(system) else _unknown(system, signal)
        )
    spans = [*sampled_rows(system.steps)]
    rows = torch.cat(_windows(system, spans), dim=-2)
    dtype = torch.promote_types(rows.dtype, values.dtype)
    mixed = (rows.to(dtype) @ values.to(dtype)).unsqueeze(-2)
    if found is None:
        return mixed
    done = 0
    for start, stop in spans:
        found[..., start:stop, :, :] = mixed[..., done : done + stop - start, :, :]
        done += stop - start
    return found


def _windows(
    system: Operator, spans: Sequence[tuple[int, int]]
) -> list[Shaped[Tensor, "*batch rows read"]]:
    """Some windows of the rows of a map; what they have in common is asked of the system once."""
    source = whole_rows(system)
    if source is not None:
        return [source.window(*span).squeeze(-2) for span in spans]
    return [block.weights for span in spans for block in blocks_between(system, *span, size=PANEL)]


def leaves_out(system: Operator) -> bool:
    """Whether rows are left out that a fused kernel would compute as the module itself does."""
    source = _source(system)
    return (
        isinstance(source, SoftmaxRows)
        and source.is_fused
        and not _remembers(system)
        and system.steps > EVERY
    )


def compared_tokens(length: int) -> Int[Tensor, " some"]:
    """The tokens whose rows are compared, in order."""
    return torch.cat([torch.arange(*span) for span in sampled_rows(length)])


def _source(system: Operator) -> object:
    return system.rows if isinstance(system, ExplicitMap) else getattr(system, "C", None)


def _unknown(system: Operator, signal: Tensor) -> Tensor:
    dtype = torch.promote_types(system.dtype, signal.dtype)
    shape = (*system.batch, system.steps, 1, signal.shape[-1])
    return torch.full(shape, math.nan, dtype=dtype, device=signal.device)


def _remembers(system: Operator) -> bool:
    return isinstance(system, System) and system.initial is not None


def sampled_rows(length: int) -> Iterator[tuple[int, int]]:
    """First rows and ends of windows, in order, the first and the last row among them."""
    if length <= EVERY:
        for start in range(0, length, PANEL):
            yield start, min(start + PANEL, length)
        return
    for number in range(WINDOWS):
        start = number * (length - ROWS) // (WINDOWS - 1)
        yield start, start + ROWS
