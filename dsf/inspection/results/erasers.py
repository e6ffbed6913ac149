"""Who erased a token: the account of one entry of a layer's map, and the strongest of a model."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dsf.evaluate import respond
from dsf.inspection.results.measurements import Measurable
from dsf.inspection.results.table import Table
from dsf.measures.erasers import Eraser, erasers, largest_losses
from dsf.runtime.shapes import at_least
from dsf.systems.algebra import select
from dsf.systems.coefficient import TokenSlots
from dsf.systems.composite import SystemSum
from dsf.systems.system import System


@runtime_checkable
class ErasableLayer(Measurable, Protocol):
    """A layer of an inspection, as far as erasers are concerned."""

    @property
    def heads(self) -> tuple[int, ...] | None: ...
    @property
    def signal(self) -> Tensor: ...
    @property
    def row_tokens(self) -> Tensor: ...
    @property
    def column_tokens(self) -> Tensor: ...


def erasers_of(
    layer: ErasableLayer, *, query: int, key: int, head: int, sample: int
) -> tuple[Eraser, ...]:
    system = layer.system
    index = _entry(layer, head, sample)
    rows, columns = layer.row_tokens[index].tolist(), layer.column_tokens[index].tolist()
    places = [
        _place(layer, name, token, order)
        for name, token, order in (("query", query, rows), ("key", key, columns))
    ]
    found = erasers(select(system, index), query=places[0], key=places[1])
    return tuple(replace(each, token=columns[each.token]) for each in found)


def _entry(layer: ErasableLayer, head: int, sample: int) -> tuple[int, ...]:
    """The entry of the batch axes: the head is the last of them, the sample all before it."""
    sizes = tuple(layer.system.batch)
    if not sizes:
        return ()
    has_heads = layer.axes != ("sample",)
    leading, count = (sizes[:-1], sizes[-1]) if has_heads else (sizes, 1)
    heads = list(range(count)) if layer.heads is None else list(layer.heads)
    if head not in heads:
        raise IndexError(
            f"erasers: expected 'head' to be one of the {len(heads)} of {layer.name}, from "
            f"{heads[0]} to {heads[-1]}, got {head}."
        )
    samples = prod(leading)
    if not -samples <= sample < samples:
        raise IndexError(
            f"erasers: expected 'sample' from 0 to {samples - 1}, got {sample}. Choose one of them."
        )
    numbers = torch.arange(samples).reshape(leading)
    before = (numbers == sample % samples).nonzero()[0].tolist()
    return (*before, heads.index(head)) if has_heads else tuple(before)


def _place(layer: ErasableLayer, name: str, token: int, order: Sequence[int]) -> int:
    """Where a token of the model lies in the rows or columns of the map."""
    wanted = token + max(order) + 1 if token < 0 else token
    if wanted < 0 or wanted not in order:
        raise IndexError(
            f"erasers: expected '{name}' to be a token of {layer.name}, from {min(order)} to "
            f"{max(order)}, got {token}."
        )
    return list(order).index(wanted)


def strongest_erasers(layers: Sequence[ErasableLayer], *, query: int, count: int) -> Table:
    at_least(1, "erasers", "count", count)
    found: list[dict[str, object]] = []
    for layer in layers:
        system = layer.system
        parts = system.parts if isinstance(system, SystemSum) else (system,)
        signal = layer.signal
        response = respond(system, signal)
        for part in parts:
            if isinstance(part, System) and not isinstance(part.B, TokenSlots):
                found += _strongest_of(layer, part, signal, response, query, count)
    found.sort(key=lambda record: -abs(float(str(record["share"]))))
    return Table(tuple(found[:count]))


def _strongest_of(
    layer: ErasableLayer, part: System, signal: Tensor, response: Tensor, query: int, count: int
) -> list[dict[str, object]]:
    steps = part.steps
    if not -steps <= query < steps:
        raise IndexError(
            f"erasers: expected 'query' from 0 to {steps - 1}, got {query}. Choose one of the "
            f"{steps} tokens of {layer.name}."
        )
    row = query % steps
    values = signal.flip(-3) if part.runs_backward else signal
    norms = torch.linalg.vector_norm(response[..., row, :, :], dim=(-2, -1))
    norms = torch.where(norms > 0, norms, 1)

    def share(change: Tensor) -> Tensor:
        """Norms of what is missing in the response, relative to it, for every key."""
        here = values[..., : change.shape[-2], :, :].to(change)
        missing = torch.einsum("...oki,...kic->...koc", change, here)
        return torch.linalg.vector_norm(missing, dim=(-2, -1)) / norms.unsqueeze(-1)

    records: list[dict[str, object]] = []
    for loss in largest_losses(part, query=row, count=count, size=share):
        columns = layer.column_tokens[loss.entry].tolist()
        key, eraser = (
            columns[steps - 1 - at if part.runs_backward else at] for at in (loss.key, loss.token)
        )
        value, norm = values[loss.entry][loss.key], norms[loss.entry]
        by_decay, by_overwriting = (
            (torch.linalg.vector_norm(each @ value.to(each)) / norm).item()
            for each in (loss.decay, loss.overwriting)
        )
        records.append(
            {
                "layer": layer.name,
                **dict(zip(layer.axes, layer.place(loss.entry), strict=False)),
                "query": row,
                "key": key,
                "token": eraser,
                "share": loss.size,
                "decay": by_decay,
                "overwriting": by_overwriting,
            }
        )
    return records
