"""The response of attention by rows of its map, as the map is shown.

Softmax attention without bias responds by a fused kernel that never forms the rows. Its module in
float64 calls the same kernel, so a comparison of the two says nothing about the map. Therefore the
response that is compared is the rows of the map times the values: all rows of short sequences, and
of long ones a sample in windows spread evenly from the first row to the last, while the other rows
come from the kernel.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import PANEL, ExplicitMap, Operator
from dsf.evaluate import respond
from dsf.evaluate.rows import blocks_between
from dsf.ingredients.softmax_rows import PairRows
from dsf.system import System

EVERY = 256
"""So many rows are all multiplied out."""
WINDOWS, ROWS = 8, 8
"""Of more rows so many windows of so many rows are."""


def response_by_rows(
    system: Operator, signal: Shaped[Tensor, "*batch read input channel"]
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response of a system, where its map is made of scores by rows of the map."""
    source = system.rows if isinstance(system, ExplicitMap) else getattr(system, "C", None)
    if not isinstance(source, PairRows) or _remembers(system):
        return respond(system, signal)
    values = signal.squeeze(-2)
    found = respond(system, signal) if system.steps > EVERY else None
    parts = []
    for start, stop in sampled_rows(system.steps):
        (rows,) = (block.weights for block in blocks_between(system, start, stop, size=PANEL))
        dtype = torch.promote_types(rows.dtype, values.dtype)
        mixed = (rows.to(dtype) @ values.to(dtype)).unsqueeze(-2)
        if found is None:
            parts.append(mixed)
        else:
            found[..., start:stop, :, :] = mixed
    return torch.cat(parts, dim=-3) if found is None else found


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
