"""What every head looks at, by name, next to the score that chance gives."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dsf import measures
from dsf.evaluate import attention_map
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.measurements import Measurable, indices
from dsf.inspection.results.table import Record, Table
from dsf.systems.composite import Operator

ORDERS = 4
"""Random orders of the tokens, over which the control is the mean."""

BY_PLACE: dict[str, Callable[..., Tensor]] = {
    "previous_token": measures.previous_token,
    "first_token": measures.first_token,
    "self_token": measures.self_token,
}
BY_TOKEN: dict[str, Callable[..., Tensor]] = {
    "duplicate_token": measures.duplicate_token,
    "induction": measures.induction,
}


def scored_heads(layers: Iterable[Measurable], tokens: Int[Tensor, "sample time"]) -> Table:
    """One record for each layer, head (or channel) and score, as ``Inspection.heads`` says."""
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        shown = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise InspectionError(
            "heads: 'tokens' must be the numbers of the tokens, a tensor of whole numbers with the "
            f"axes 'sample time' such as input_ids, but it is {shown}."
        )
    several = tuple(layers)
    padding = _padding(several, tokens)
    return Table(tuple(record for layer in several for record in _of_layer(layer, tokens, padding)))


def strongest(table: Table) -> Table:
    """Of every score the head that exceeds its control by most."""
    found = []
    for name in (*BY_PLACE, *BY_TOKEN):
        rows = [row for row in table.where(score=name) if row["value"] == row["value"]]
        if rows:
            found.append(max(rows, key=excess))
    return Table(tuple(found))


def excess(row: Record) -> float:
    """By how much a score exceeds its control; its value where chance had nothing to look at."""
    value, control = row["value"], row["control"]
    return float(value if math.isnan(control) else value - control)


def text_numbers(tokens: tuple[tuple[str, ...], ...] | None) -> Int[Tensor, "sample time"]:
    """A number for every token, the same for the same text."""
    if tokens is None:
        raise InspectionError(
            "heads: this inspection has no tokens. Give their numbers: inspection.heads(input_ids)."
        )
    known: dict[str, int] = {}
    return torch.tensor([[known.setdefault(text, len(known)) for text in row] for row in tokens])


def _padding(layers: Sequence[Measurable], tokens: Tensor) -> Tensor | None:
    """The tokens that no token may read in any layer with a mask, ``sample time``; None for none.

    The masks of attention say it for the layers without one as well.
    """
    biases = (getattr(getattr(layer, "mixer", None), "bias", None) for layer in layers)
    hidden = [
        (bias == -math.inf).all(dim=-2).all(dim=1).expand(len(bias), -1)
        for bias in biases
        if isinstance(bias, Tensor) and bias.ndim == 4
    ]
    fitting = [each for each in hidden if each.shape in (tokens.shape, (1, tokens.shape[1]))]
    if not fitting:
        return None
    padding = torch.stack([each.expand(tokens.shape).cpu() for each in fitting]).all(dim=0)
    return padding if bool(padding.any()) else None


def _of_layer(layer: Measurable, tokens: Tensor, padding: Tensor | None) -> Iterator[Record]:
    system, (samples, steps) = layer.system, tokens.shape
    note = _no_scores(layer, samples, steps)
    if note is not None:
        yield {"layer": layer.name, "note": note}
        return
    if padding is None:
        scores = _scores(system, tokens, _even(system, steps))
    else:  # every sample without its padding, as it would be scored alone
        even, maps = _even(system, steps), attention_map(system)
        alone = []
        for sample, row in enumerate(tokens):
            kept = (~padding[sample]).nonzero().flatten()
            square = (..., kept[:, None], kept)
            ids = row[kept.to(row.device)].unsqueeze(0)
            alone.append(_scores(maps[sample : sample + 1][square], ids, even[square]))
        scores = {
            name: tuple(map(torch.cat, zip(*(one[name] for one in alone), strict=True)))
            for name in alone[0]
        }
    for name, (value, net, control) in scores.items():
        yield from _records(layer, name, value, net, control)


def _scores(map_or_system: Any, tokens: Tensor, even: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """By name the score of every sample and head, its signed part, and that of chance."""
    rng = torch.Generator().manual_seed(0)
    orders = [torch.randperm(tokens.shape[1], generator=rng) for _ in range(ORDERS)]
    found: dict[str, tuple[Tensor, ...]] = {}
    for name, measure in BY_PLACE.items():
        value = measure(map_or_system)
        found[name] = value, measure(map_or_system, net=True), measure(even).expand_as(value)
    for name, measure in BY_TOKEN.items():
        mixed = torch.stack([measure(map_or_system, tokens[:, order]) for order in orders])
        value, net = measure(map_or_system, tokens), measure(map_or_system, tokens, net=True)
        found[name] = value, net, mixed.nanmean(dim=0)
    return found


def _no_scores(layer: Measurable, samples: int, steps: int) -> str | None:
    system = layer.system
    reads = getattr(system, "read_steps", system.steps)
    if layer.axes[:1] != ("sample",) or system.batch[0] != samples:
        return f"its maps are not one for each of the {samples} samples"
    if not system.steps == reads == steps:
        return f"it maps {reads} tokens to {system.steps}, and the input has {steps}"
    if system.input_size != 1 or system.output_size != 1:
        return "it has no map with one number for two tokens"
    return None


def _even(system: Operator, steps: int) -> Tensor:
    """The map that weighs all tokens alike which this one may read."""
    ones = torch.ones(steps, steps, dtype=torch.float64, device=system.device)
    return ones if bool((measures.largest_ahead(system) > 0).any()) else ones.tril()


def _records(
    layer: Measurable, name: str, value: Tensor, net: Tensor, control: Tensor
) -> Iterator[Record]:
    """One for every head, the mean over the samples that have the score."""
    means = [part.double().nanmean(dim=0) for part in (value, net, control)]
    for index in indices(means[0]):
        place = layer.place((0, *index))[1:]
        numbers = (part[index].item() for part in means)
        yield {
            "layer": layer.name,
            **dict(zip(layer.axes[1:], place, strict=True)),
            "score": name,
            **dict(zip(("value", "net", "control"), numbers, strict=True)),
        }
