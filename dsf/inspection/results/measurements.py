"""Numbers of the map of every layer: quantities, what each head looks at, who erased a token."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dsf import measures
from dsf.evaluate import MapTooLarge, attention_map, respond
from dsf.evaluate.memory_plan import free_memory, map_bytes
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.quantities import BY_ROW, MEASURES, RANK, WINDOW
from dsf.inspection.results.table import Record, Table
from dsf.measures.erasers import Eraser, erasers, largest_losses
from dsf.measures.fold import MASS, Reduced
from dsf.measures.hankel import ranks_from_states
from dsf.measures.passes import Measured, is_streamable, one_pass, reduced, reductions_of
from dsf.runtime.shapes import at_least
from dsf.runtime.threads import MOST, each_in_parallel
from dsf.systems.algebra import select
from dsf.systems.coefficient import TokenSlots
from dsf.systems.composite import Operator, SystemSum, at_rest
from dsf.systems.system import System

Layer = Any
"""An ``InspectedLayer``, whose file imports this one."""
Quantity = Callable[[Any], Tensor]
LONGEST_FOR_RANKS = 1024
"""Up to so many tokens blocks of maps are factorised for their ranks without being asked by name.

Of each map (tokens / 2)³ operations, where all other quantities take a pass over its weights.
"""


def _row_mean(measure: Callable[[Any], Tensor]) -> Quantity:
    def mean(map_or_system: Measured) -> Tensor:
        found = measure(map_or_system).nanmean(dim=-1)  # rows of zeros have no shares
        (mass,) = reduced(map_or_system, MASS)
        return torch.where(mass.isnan().any(dim=-1), torch.nan, found)

    return mean


def _middle_rank(map_or_system: Any, longest: int | None = None) -> Tensor:
    """The rank in the middle, where a block of up to so many tokens is factorised for it."""
    is_map = isinstance(map_or_system, Tensor)
    steps = map_or_system.shape[-1] if is_map else map_or_system.steps
    if steps < 2:
        batch = map_or_system.shape[:-2] if is_map else map_or_system.batch
        return torch.zeros(batch, device=map_or_system.device)
    runs_backward = getattr(map_or_system, "runs_backward", False)
    if (
        longest is not None
        and steps > longest
        and (runs_backward or not ranks_from_states(map_or_system))
    ):
        raise ValueError(
            f"left out: of {steps:,} tokens, more than {longest:,}, a block of "
            f"{steps // 2:,} x {steps - steps // 2:,} weights of every map would be factorised. "
            f"Ask for it by name: inspection.measure({RANK!r}), quantities=[{RANK!r}] of a job, "
            f"dsf measure --quantity {RANK}."
        )
    of = attention_map(map_or_system) if runs_backward else map_or_system
    return measures.hankel_ranks(of, positions=[(steps - 1) // 2]).squeeze(-1)


def _quantity(measure: str) -> Quantity:
    if measure == MEASURES[RANK]:
        return _middle_rank
    function = partial(measures.window_mass, width=WINDOW)
    if measure != "window_mass":
        function = getattr(measures, measure)
    return _row_mean(function) if measure in BY_ROW else function


QUANTITIES: Mapping[str, Quantity] = {name: _quantity(each) for name, each in MEASURES.items()}
"""All by their names; asked for by name, each is computed however long it takes."""

_QUICK_RANK = partial(_middle_rank, longest=LONGEST_FOR_RANKS)
BY_DEFAULT: Mapping[str, Quantity] = {**QUANTITIES, RANK: _QUICK_RANK}
"""The same where nobody named any: ranks that take longer than all others are left out, and say so.
"""


def chosen(names: Sequence[str]) -> Mapping[str, Quantity]:
    """The quantities of these names, in this order; those by default where there are none."""
    for name in names:
        if name not in QUANTITIES:
            raise ValueError(
                f"measure: 'quantities' has {name!r}, but the quantities are "
                f"{', '.join(QUANTITIES)}. Name some of these, or none for all."
            )
    return {name: QUANTITIES[name] for name in names} or BY_DEFAULT


def measured(
    layers: Iterable[Layer],
    quantities: Mapping[str, Quantity] = BY_DEFAULT,
    *,
    whole: Tensor | None = None,
) -> Table:
    """One record for every layer, batch index and quantity; ``whole`` is the map of a lone one."""
    records: list[Record] = []
    several = list(layers)
    done = each_in_parallel(
        lambda layer: _values_of(layer, quantities, whole),
        several,
        most=at_a_time(several, lambda layer: map_bytes(layer.system)),
    )
    for layer, (found, unmeasured) in zip(several, done, strict=True):
        owner = {"layer": layer.name, "family": layer.family}
        for name in quantities:
            if name not in found:
                note = unmeasured[name]
                records.append({**owner, "quantity": name, "value": math.nan, "note": note})
                continue
            for index, number in zip(
                indices(found[name]), found[name].flatten().tolist(), strict=True
            ):
                place = dict(zip(layer.axes, layer.place(index), strict=False))
                records.append({**owner, **place, "quantity": name, "value": number})
    return Table(tuple(records))


def _values_of(
    layer: Layer, quantities: Mapping[str, Quantity], whole: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    if layer.padding is None:
        return values(layer.system, quantities, whole=whole)
    alone = [values(one, quantities) for _, one in _without_padding(layer.system, layer.padding)]
    unmeasured = {name: note for _, notes in alone for name, note in notes.items()}
    measured_ones = (name for name in quantities if name not in unmeasured)
    found = {name: torch.cat([one[name] for one, _ in alone]) for name in measured_ones}
    return found, unmeasured


def _without_padding(
    system: Operator, padding: Bool[Tensor, "sample time"]
) -> Iterator[tuple[Int[Tensor, " kept"], Any]]:
    """Of every sample the tokens that are kept, and its map among these: that of the text alone."""
    for sample, hidden in enumerate(padding):
        one, kept = select(system, (slice(sample, sample + 1),)), (~hidden).nonzero().flatten()
        if not len(kept):  # nothing is left to be measured
            yield torch.arange(len(hidden)), one
            continue
        first, last = int(kept[0]), int(kept[-1]) + 1
        if isinstance(one, System) and len(kept) == last - first:
            yield kept, at_rest(one.cut(first, last))
            continue
        rows, columns = (
            (kept[:, None] * ports + torch.arange(ports)).flatten()
            for ports in (one.output_size, one.input_size)
        )
        yield kept, attention_map(one)[..., rows[:, None], columns]


def at_a_time(layers: Iterable[Layer], needed: Callable[[Layer], int]) -> int:
    """How many layers are worked on side by side: as many as fit into half of the free memory."""
    fits = MOST
    for layer in layers:
        if getattr(layer, "is_on_disk", False):
            return 1  # for want of memory
        free = free_memory(layer.system.device)
        if free is not None:
            fits = min(fits, free // (2 * max(needed(layer), 1)))
    return max(fits, 1)


def values(
    system: Operator,
    quantities: Mapping[str, Quantity] = BY_DEFAULT,
    *,
    passed: Reduced | None = None,
    whole: Tensor | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each quantity over the batch axes of a layer, and why the others are not defined for it."""
    found: dict[str, Tensor] = {}
    unmeasured: dict[str, str] = {}
    has_one_port = system.output_size == system.input_size == 1  # a matrix does not say
    of = system if whole is None or not has_one_port else whole
    by_row = [quantity for quantity in quantities.values() if is_streamable(quantity)]
    if by_row and passed is None:
        with suppress(ValueError):  # what one of them refuses is asked of each alone
            passed = one_pass(of, reductions_of(by_row))
    for name, quantity in quantities.items():
        source = passed if passed is not None and is_streamable(quantity) else of
        try:
            found[name] = quantity(source)
        except (ValueError, MapTooLarge) as error:  # such as ranks of a map with NaN
            unmeasured[name] = str(error)
    return found, unmeasured


def indices(values: Tensor) -> list[tuple[int, ...]]:
    """Every index of a tensor, the last axis fastest; one empty index for a scalar."""
    return list(product(*map(range, values.shape)))


ORDERS = 4
"""Random orders of the tokens, over which the control is the mean."""

BY_PLACE = ("previous_token", "first_token", "self_token")
BY_TOKEN = ("duplicate_token", "induction")


def scored_heads(layers: Iterable[Layer], tokens: Int[Tensor, "sample time"]) -> Table:
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


def _padding(layers: Sequence[Layer], tokens: Tensor) -> Tensor | None:
    """The tokens that a mask hides from all tokens, ``sample time``; None if there are none."""
    if known := [layer.padding for layer in layers if layer.padding is not None]:
        return known[0] if known[0].shape == tokens.shape else None
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


def _of_layer(layer: Layer, tokens: Tensor, padding: Tensor | None) -> Iterator[Record]:
    system, (samples, steps) = layer.system, tokens.shape
    note = _no_scores(layer, samples, steps)
    if note is not None:
        yield {"layer": layer.name, "note": note}
        return
    # The map that weighs all tokens alike which this one may read.
    even = torch.ones(steps, steps, dtype=torch.float64, device=system.device)
    even = even if bool((measures.largest_ahead(system) > 0).any()) else even.tril()
    if padding is None:
        scores = _scores(system, tokens, even)
    else:
        alone = [
            _scores(one, row[kept.to(row.device)].unsqueeze(0), even[kept[:, None], kept])
            for row, (kept, one) in zip(tokens, _without_padding(system, padding), strict=True)
        ]
        scores = {
            name: tuple(map(torch.cat, zip(*(one[name] for one in alone), strict=True)))
            for name in alone[0]
        }
    for name, parts in scores.items():  # the mean over the samples that have the score
        means = [part.double().nanmean(dim=0) for part in parts]
        for index in indices(means[0]):
            place = layer.place((0, *index))[1:]
            numbers = (part[index].item() for part in means)
            yield {
                "layer": layer.name,
                **dict(zip(layer.axes[1:], place, strict=True)),
                "score": name,
                **dict(zip(("value", "net", "control"), numbers, strict=True)),
            }


def _scores(map_or_system: Any, tokens: Tensor, even: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """By name the score of every sample and head, its signed part, and that of chance."""
    rng = torch.Generator().manual_seed(0)
    orders = [torch.randperm(tokens.shape[1], generator=rng) for _ in range(ORDERS)]
    found: dict[str, tuple[Tensor, ...]] = {}
    for name in BY_PLACE:
        measure = getattr(measures, name)
        value = measure(map_or_system)
        found[name] = value, measure(map_or_system, net=True), measure(even).expand_as(value)
    for name in BY_TOKEN:
        measure = getattr(measures, name)
        mixed = torch.stack([measure(map_or_system, tokens[:, order]) for order in orders])
        value, net = measure(map_or_system, tokens), measure(map_or_system, tokens, net=True)
        found[name] = value, net, mixed.nanmean(dim=0)
    return found


def _no_scores(layer: Layer, samples: int, steps: int) -> str | None:
    system = layer.system
    reads = getattr(system, "read_steps", system.steps)
    if layer.axes[:1] != ("sample",) or system.batch[0] != samples:
        return f"its maps are not one for each of the {samples} samples"
    if not system.steps == reads == steps:
        return f"it maps {reads} tokens to {system.steps}, and the input has {steps}"
    if system.input_size != 1 or system.output_size != 1:
        return "it has no map with one number for two tokens"
    return None


def erasers_of(layer: Layer, *, query: int, key: int, head: int, sample: int) -> tuple[Eraser, ...]:
    system = layer.system
    index = _entry(layer, head, sample)
    rows, columns = layer.row_tokens[index].tolist(), layer.column_tokens[index].tolist()
    places = [
        _place(layer, name, token, order)
        for name, token, order in (("query", query, rows), ("key", key, columns))
    ]
    found = erasers(select(system, index), query=places[0], key=places[1])
    return tuple(replace(each, token=columns[each.token]) for each in found)


def _entry(layer: Layer, head: int, sample: int) -> tuple[int, ...]:
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
    entries = list(product(*map(range, leading)))
    if not -len(entries) <= sample < len(entries):
        raise IndexError(
            f"erasers: expected 'sample' from 0 to {len(entries) - 1}, got {sample}. Choose one of "
            "them."
        )
    return (*entries[sample], heads.index(head)) if has_heads else entries[sample]


def _place(layer: Layer, name: str, token: int, order: Sequence[int]) -> int:
    """Where a token of the model lies in the rows or columns of the map."""
    wanted = token + max(order) + 1 if token < 0 else token
    if wanted < 0 or wanted not in order:
        raise IndexError(
            f"erasers: expected '{name}' to be a token of {layer.name}, from {min(order)} to "
            f"{max(order)}, got {token}."
        )
    return list(order).index(wanted)


def strongest_erasers(layers: Sequence[Layer], *, query: int, count: int) -> Table:
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
    layer: Layer, part: System, signal: Tensor, response: Tensor, query: int, count: int
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
