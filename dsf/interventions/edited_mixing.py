"""The response of a mixer whose values, state, map or response are edited.

Edits of values act first, then those of the state, of the map and of the response; edits of one
kind act in the order in which they are given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate import attention_map, final_state, respond
from dsf.evaluate.arguments import state_at_start
from dsf.inspection.choice import chosen_heads
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.inspection.softmax.attention import GivenWeights
from dsf.interventions import edits as kinds
from dsf.interventions.state_budget import is_recurrent, rounded, rounded_run
from dsf.mixers import SoftmaxAttention
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import Operator
from dsf.systems.system import System

ENTRIES = 2**24
"""The number of entries of maps that are held at once."""
WHOLE = 1e-9
"""How far the sum of a softmax may lie from one by rounding."""
NORMALISED = (SoftmaxAttention, GivenWeights)
"""Mixers whose rows are a softmax over keys."""
OF_A_STATE = {
    kinds.RoundState: "Choose other layers.",
    kinds.StateFrom: "For attention, take over values (ValueFrom) or maps (MapFrom).",
    kinds.Protect: "Attention moves on to later keys: Scale or Cut those edges.",
}
"""What to do instead where there is none."""
Block = Float[Tensor, "*batch rows output read input"]


@dataclass(frozen=True, eq=False)
class EditedMixer:
    """A mixer on the input that it has now, and the other runs that its edits refer to."""

    name: str
    mixer: Any
    sources: Mapping[str, Inspection]
    has_samples: bool = True

    @cached_property
    def system(self) -> Any:
        return self.mixer.system()

    def of(self, source: kinds.Source, edit: kinds.Edit) -> InspectedLayer:
        kind = type(edit).__name__
        if isinstance(source, str):
            if source not in self.sources:
                raise InspectionError(
                    f"intervene: {kind} refers to the run '{source}', but 'sources' has "
                    f"{', '.join(self.sources) or 'none'}. Pass sources={{'{source}': inspection}}."
                )
            source = self.sources[source]
        if not isinstance(source, Inspection):
            raise InspectionError(
                f"intervene: {kind} expected another run, got {type(source).__name__}. Give its "
                "inspection, dsf.inspect(model, ...), or the name of one in 'sources'."
            )
        try:
            return source[self.name]
        except KeyError as error:
            raise InspectionError(
                f"intervene: {kind}: the other run has no layer '{self.name}'."
            ) from error


def edited_response(  # noqa: PLR0912 (one for each kind of edit)
    subject: EditedMixer, edits: Sequence[kinds.Edit], plain: Tensor | None = None
) -> Shaped[Tensor, "*batch time output channel"]:
    system, given = subject.system, subject.mixer.signal()
    signal = given
    for edit in edits:
        if isinstance(edit, kinds.ValueFrom):
            signal = _with_values(subject, edit, signal)
        if type(edit) in OF_A_STATE and not is_recurrent(system):
            raise InspectionError(
                f"intervene: {type(edit).__name__}: {subject.name} has no recurrent state that "
                f"goes on from token to token. {OF_A_STATE[type(edit)]}"
            )
    moving, read = signal - _constant_signal(subject.mixer), signal.shape[-3]
    if not is_recurrent(system):
        edits = [
            _cut_before(edit, read) if isinstance(edit, kinds.Forget) else edit for edit in edits
        ]
    rows = [edit for edit in edits if isinstance(edit, kinds.MapEdit)]
    states = [edit for edit in edits if isinstance(edit, kinds.Forget | kinds.StateFrom)]
    reductions = [edit for edit in edits if isinstance(edit, kinds.Reduce)]
    rounds = [edit for edit in edits if isinstance(edit, kinds.RoundState)]
    protections = [edit for edit in edits if isinstance(edit, kinds.Protect)]
    if sum(map(bool, (rows, states, rounds, protections))) + len(reductions) > 1:
        raise InspectionError(
            f"intervene: {subject.name} has edits whose common meaning is not defined: of its map, "
            "of its state, 'RoundState', 'Protect' and every 'Reduce' are each for themselves. "
            "Give them in separate calls."
        )
    if rounds:
        response = _rounded(subject, rounds, signal)
    elif states:
        response = _by_segments(subject, states, signal)
    elif plain is None or signal is not given:
        response = respond(system, signal)
    else:
        response = plain
    for key, tokens, where in _protected(subject, protections):
        response = response + torch.where(where, _spared(system, signal, key, tokens), 0)
    for edit in reductions:
        response = response - _lost(subject, edit, moving)
    if rows:
        changes = [_row_change(subject, edit, read) for edit in rows]
        response = response + _by_rows(system, moving, changes, response)
    for edit in edits:
        if isinstance(edit, kinds.Ablate | kinds.Mean):
            response = _with_response(subject, edit, response)
    return response


def _constant_signal(mixer: Any) -> Tensor:
    """The part of the signal that is not a value: the constant inputs of affine terms."""
    value = getattr(mixer, "value", None)
    if value is None:
        return torch.zeros_like(mixer.signal())
    constant: Tensor = replace(mixer, value=torch.zeros_like(value)).signal()
    return constant


def _chosen(
    subject: EditedMixer, edit: kinds.Edit, shape: Sequence[int]
) -> Bool[Tensor, "*batch 1 1 1"]:
    """Which entries of the batch axes an edit changes, with three more axes."""
    system = subject.system
    chosen, batch = torch.ones(*shape, dtype=torch.bool), system.batch
    if edit.heads is not None:
        if len(batch) < 2:
            raise InspectionError(
                f"intervene: {subject.name} has one map for all of its channels, so heads="
                f"{edit.heads} cannot be chosen. Leave 'heads' out."
            )
        heads = chosen_heads(subject.name, batch[1], edit.heads) or ()
        chosen[:, [head for head in range(batch[1]) if head not in heads]] = False
    if edit.samples is not None:
        if not subject.has_samples:
            raise InspectionError(
                f"intervene: the {batch[:1].numel()} sequences that {subject.name} mixes are not "
                "one for each sample (it cuts them into windows, or has one map for all), so "
                f"samples={edit.samples} cannot be chosen. Leave 'samples' out, or run a sample "
                "alone."
            )
        count = shape[0] if shape else 1
        samples = places("samples", edit.samples, count)
        chosen[~torch.isin(torch.arange(count), samples)] = False
    return chosen[(..., None, None, None)].to(system.device)


def places(name: str, tokens: kinds.Tokens, count: int) -> Tensor:
    """Numbers of tokens (or samples) as a tensor; negative ones count from the end."""
    if tokens is None or isinstance(tokens, slice):
        return torch.arange(count)[slice(None) if tokens is None else tokens]
    several = [tokens] if isinstance(tokens, int) else list(tokens)
    wrong = [each for each in several if not -count <= each < count]
    if wrong:
        raise InspectionError(
            f"intervene: {name}={wrong[0]} is none of the {count} "
            f"{'samples' if name == 'samples' else 'tokens'}, which are numbered from 0 to "
            f"{count - 1}."
        )
    return torch.tensor([each % count for each in several], dtype=torch.long)


# Values and responses


def _with_values(subject: EditedMixer, edit: kinds.ValueFrom, signal: Tensor) -> Tensor:
    other = subject.of(edit.other, edit).mixer.signal()
    chosen = places("tokens", edit.tokens, signal.shape[-3])
    fits = _fits(other.shape[:-3], signal.shape[:-3]) and other.shape[-2:] == signal.shape[-2:]
    if not fits or other.shape[-3] <= max(chosen.tolist(), default=-1):
        raise InspectionError(
            f"intervene: ValueFrom: the values of {subject.name} are {tuple(signal.shape)} in this "
            f"run and {tuple(other.shape)} in the other, which must have one sample or as many, "
            "the same heads and width, and the tokens that are taken."
        )
    filled, taken = signal.clone(), other[..., chosen.to(other.device), :, :]
    filled[..., chosen.to(signal.device), :, :] = taken.to(signal)
    return torch.where(_chosen(subject, edit, signal.shape[:-3]), filled, signal)


def _fits(other: Sequence[int], here: Sequence[int]) -> bool:
    """Whether the batch axes of another run are these, or these with one sample for all."""
    return tuple(other[1:]) == tuple(here[1:]) and tuple(other[:1]) in ((1,), tuple(here[:1]))


def _with_response(subject: EditedMixer, edit: kinds.ResponseEdit, response: Tensor) -> Tensor:
    put = torch.zeros_like(response)
    if isinstance(edit, kinds.Mean) and edit.over is None:
        put = response.mean(dim=-3, keepdim=True)
    elif isinstance(edit, kinds.Mean):
        layer = subject.of(edit.over, edit)
        there = respond(layer.mixer.system(), layer.mixer.signal())
        sizes = [(*part.shape[1:-3], *part.shape[-2:]) for part in (response, there)]
        if sizes[0] != sizes[1]:
            raise InspectionError(
                f"intervene: Mean: the response of {subject.name} is {tuple(response.shape)} in "
                f"this run and {tuple(there.shape)} in the other, which must have the same heads "
                "and width."
            )
        put = there.mean(dim=(0, -3), keepdim=True).to(response)
    return torch.where(_chosen(subject, edit, response.shape[:-3]), put, response)


# The state


def _rounded(subject: EditedMixer, edits: Sequence[kinds.RoundState], signal: Tensor) -> Tensor:
    """The response where the state of each head is rounded; others keep theirs."""
    system = subject.system
    where = [_chosen(subject, edit, system.batch) for edit in edits]

    def store(states: Tensor) -> Tensor:
        for edit, chosen in zip(edits, where, strict=True):
            states = torch.where(chosen[..., 0], rounded(states, edit.bits), states)
        return states

    response, _ = rounded_run(system, signal, store)
    some = reduce(torch.logical_or, where)
    return response if bool(some.all()) else torch.where(some, response, respond(system, signal))


def _by_segments(
    subject: EditedMixer, edits: Sequence[kinds.Forget | kinds.StateFrom], signal: Tensor
) -> Tensor:
    """The response where the state is exchanged between tokens, one segment after the other."""
    system = subject.system
    borders: dict[int, list[kinds.Forget | kinds.StateFrom]] = {}
    for edit in edits:
        (token,) = places("token", edit.token, signal.shape[-3]).tolist()
        borders.setdefault(token if isinstance(edit, kinds.Forget) else token + 1, []).append(edit)
    if system.steps in borders:
        raise InspectionError(
            "intervene: StateFrom: after the last token no other token reads the state. Give an "
            "earlier token."
        )
    dtype = torch.promote_types(system.dtype, signal.dtype)
    parts, state = [], state_at_start(system, signal.to(dtype))
    state = state.expand(*system.batch, system.state_size, signal.shape[-1])
    for start, stop in pairwise(sorted({*borders, 0, system.steps})):
        for edit in borders.get(start, ()):
            state = _exchanged(subject, edit, state)
        here = replace(system.cut(start, stop), initial=state)
        given = signal[..., start:stop, :, :]
        parts.append(respond(here, given))
        state = final_state(here, given)
    return torch.cat(parts, dim=-3)


def _exchanged(subject: EditedMixer, edit: kinds.Forget | kinds.StateFrom, now: Tensor) -> Tensor:
    """A state after an edit: cleared, or that of another run."""
    put = torch.zeros_like(now)
    if isinstance(edit, kinds.StateFrom):
        layer = subject.of(edit.other, edit)
        there, given = layer.mixer.system(), layer.mixer.signal()
        chosen = edit.token if edit.other_token is None else edit.other_token
        (token,) = places("other_token", chosen, there.steps).tolist()
        if not is_recurrent(there):
            raise InspectionError(f"intervene: StateFrom: {layer.name} has no state there.")
        before = replace(there.cut(0, token + 1), initial=there.initial)
        taken = final_state(before, given[..., : token + 1, :, :])
        if not _fits(taken.shape, now.shape):
            raise InspectionError(
                f"intervene: StateFrom: the state of {subject.name} is {tuple(now.shape)} in this "
                f"run and {tuple(taken.shape)} in the other."
            )
        put = taken.to(now)
    return torch.where(_chosen(subject, edit, now.shape[:-2]).squeeze(-1), put, now)


def _protected(
    subject: EditedMixer, edits: Sequence[kinds.Protect]
) -> list[tuple[int, set[int], Tensor]]:
    """Keys, the tokens that spare each of them, and in which entries of the batch axes."""
    system = subject.system
    found: list[tuple[int, set[int], Tensor]] = []
    for edit in edits:
        (key,) = places("key", edit.key, system.steps).tolist()
        (start,) = places("from_", edit.from_, system.steps).tolist()
        until = start + 1 if edit.until is None else edit.until
        stop = min(until if until >= 0 else until + system.steps, system.steps)
        if not key < start < stop:
            raise InspectionError(
                f"intervene: Protect: expected key < from_ < until, got key {key}, from_ {start}, "
                f"until {stop}. What a token left can be spared by later tokens only."
            )
        tokens, where = set(range(start, stop)), _chosen(subject, edit, system.batch)
        alike = [each for each in found if each[0] == key and torch.equal(each[2], where)]
        if alike:
            alike[0][1].update(tokens)
        elif any(each[0] == key and bool((each[2] & where).any()) for each in found):
            raise InspectionError(
                f"intervene: Protect: the key {key} of {subject.name} is protected twice, for "
                "heads or samples that overlap. Give the same heads and samples."
            )
        else:
            found.append((key, tokens, where))
    return found


def _spared(system: System, signal: Tensor, key: int, tokens: set[int]) -> Tensor:
    """What the response gains where the trace of one token passes some tokens unchanged."""
    nothing, alone = torch.zeros_like(signal), torch.zeros_like(signal)
    alone[..., key, :, :] = signal[..., key, :, :]
    start, steps = min(tokens), system.steps
    trace = final_state(system.cut(0, start), alone[..., :start, :, :])
    behind = replace(system.cut(start, steps), initial=trace)
    erased = respond(behind, nothing[..., start:, :, :])
    borders = [t for t in range(start + 1, steps) if (t in tokens) != (t - 1 in tokens)]
    parts = []
    for first, stop in pairwise([start, *borders, steps]):
        if first in tokens:
            kept = dense_of(system.window(first, stop).C).to(trace.dtype) @ trace.unsqueeze(-3)
            parts.append(kept.real if system.takes_real_part else kept)
        else:
            here = replace(system.cut(first, stop), initial=trace)
            parts.append(respond(here, nothing[..., first:stop, :, :]))
            trace = final_state(here, nothing[..., first:stop, :, :])
    return pad(torch.cat(parts, dim=-3) - erased, (0, 0, 0, 0, start, 0))


def _lost(subject: EditedMixer, edit: kinds.Reduce, moving: Tensor) -> Tensor:
    """What the weaker directions of the Hankel block at a token pass on to later tokens."""
    system = subject.system
    (token,) = places("token", edit.token, moving.shape[-3]).tolist()
    if token == 0:
        raise InspectionError("intervene: Reduce: before token 0 there is nothing to remember.")
    past = attention_map(system, slice(token, None))[..., : token * moving.shape[-2]]
    left, sizes, right = torch.linalg.svd(past, full_matrices=False)
    sizes[..., : edit.order] = 0
    weaker = (left * sizes.unsqueeze(-2)) @ right
    passed = weaker @ moving[..., :token, :, :].flatten(-3, -2)
    lost = pad(passed.unflatten(-2, (-1, system.output_size)), (0, 0, 0, 0, token, 0))
    return torch.where(_chosen(subject, edit, system.batch), lost, 0)


# The map


RowChange = tuple[Tensor, Callable[[Block, Tensor], None]]
"""The tokens whose rows of a map change, and what changes a block of rows with these tokens."""


def _cut_before(edit: kinds.Forget, read: int) -> kinds.Cut:
    """The edges that are forgotten where there is no state."""
    (token,) = places("token", edit.token, read).tolist()
    later, earlier = slice(token, None), slice(token)
    return kinds.Cut(edit.layer, later, earlier, heads=edit.heads, samples=edit.samples)


def _row_change(subject: EditedMixer, edit: kinds.MapEdit, read: int) -> RowChange:
    system, steps = subject.system, subject.system.steps
    written, columns = torch.arange(steps), torch.arange(read)
    renormalise = bool(getattr(edit, "renormalise", False))
    if renormalise and type(subject.mixer) not in NORMALISED:
        raise InspectionError(
            f"intervene: renormalise masks the scores of a softmax, but {subject.name} is a "
            f"{type(subject.mixer).__name__}. Leave it out: the edges are then set to zero."
        )
    factors: Callable[[Tensor], Tensor]  # of some rows of the map
    if isinstance(edit, kinds.Cut | kinds.Scale):
        written = places("query", edit.query, steps)
        factor = edit.factor if isinstance(edit, kinds.Scale) else 0.0
        keep = torch.ones(read, dtype=torch.float64)
        keep[places("key", edit.key, read)] = factor
        factors = lambda _: keep  # noqa: E731
    elif isinstance(edit, kinds.Window):
        width = min(edit.width, steps + read)
        factors = lambda rows: (rows[:, None] - columns).abs() < width  # noqa: E731
    elif isinstance(edit, kinds.Sink):
        first, is_kept = columns == 0, edit.keep
        factors = lambda rows: first | (rows[:, None] == columns) if is_kept else ~first  # noqa: E731
    change: Callable[[Block, Tensor], Block]
    if isinstance(edit, kinds.Negative):
        sign = "max" if edit.keep else "min"
        change = lambda block, _: block.clamp(**{sign: 0})  # noqa: E731
    elif isinstance(edit, kinds.MapFrom):
        change = _taken(subject, edit)
    else:
        has_sink = getattr(subject.mixer, "sink", None) is not None
        change = _multiplied(factors, renormalise, has_sink=has_sink)
    chosen = _chosen(subject, edit, system.batch).unsqueeze(-1)

    samples: slice | Tensor = slice(None)
    if edit.samples is not None and not isinstance(edit, kinds.MapFrom):
        # Edits with a sample of their own each are common: the other samples are not touched.
        samples = places("samples", edit.samples, system.batch[0]).to(system.device)

    def apply(block: Block, rows: Tensor) -> None:
        mine = torch.isin(rows, written)
        if not bool(mine.any()):
            return
        part = block[samples]
        where = chosen[samples] & mine[:, None, None, None].to(block.device)
        block[samples] = torch.where(where, change(part, rows), part)

    return written, apply


def _multiplied(
    factors: Callable[[Tensor], Tensor], renormalise: bool, *, has_sink: bool = False
) -> Callable[[Block, Tensor], Block]:
    def change(block: Block, rows: Tensor) -> Block:
        new = block * factors(rows).to(block)[..., None, :, None]
        if not renormalise:
            return new
        lost = (block - new).sum(dim=-2, keepdim=True)
        # A learned sink keeps its share of the softmax, so that 1 - lost is left and not the sum.
        left = (1 - lost).clamp_min(torch.finfo(new.dtype).eps)
        if not has_sink:
            # Of a whole row the sum is left, too, and has all its digits however little that is.
            is_whole = (block.sum(dim=-2, keepdim=True) - 1).abs() < WHOLE
            left = torch.where(is_whole, new.sum(dim=-2, keepdim=True), left)
        return new / left.clamp_min(torch.finfo(new.dtype).tiny)

    return change


def _taken(subject: EditedMixer, edit: kinds.MapFrom) -> Callable[[Block, Tensor], Block]:
    here, there = subject.system, subject.of(edit.other, edit).mixer.system()

    def map_sizes(of: Operator) -> str:
        ports = f", {of.output_size} x {of.input_size} numbers for each"
        is_plain = of.input_size == of.output_size == 1
        read = getattr(of, "read_steps", of.steps)
        return f"{of.steps} x {read} tokens{'' if is_plain else ports}"

    sizes = map_sizes(here), map_sizes(there)
    if sizes[0] != sizes[1] or not _fits(there.batch, here.batch):
        raise InspectionError(
            f"intervene: MapFrom: the maps of {subject.name} are {tuple(here.batch)} with "
            f"{sizes[0]} in this run, but {tuple(there.batch)} with {sizes[1]} in the other. Both "
            "prompts must have the same length, and both runs the same heads; the other has one "
            "sample or as many."
        )

    def change(block: Block, rows: Tensor) -> Block:
        other = attention_map(there, slice(int(rows[0]), int(rows[-1]) + 1))
        return other.unflatten(-1, block.shape[-2:]).unflatten(-3, (len(rows), -1)).to(block)

    return change


def _by_rows(
    system: Operator, moving: Tensor, changes: Sequence[RowChange], response: Tensor
) -> Tensor:
    """What changed rows add to the response, a block of rows at a time."""
    read, ports = moving.shape[-3:-1]
    written = torch.cat([tokens for tokens, _ in changes]).unique()
    added = torch.zeros_like(response)
    size = max(1, torch.Size(system.batch).numel() * read * ports * system.output_size)
    values = moving.flatten(-3, -2)
    for start, stop in _runs(written, max(1, ENTRIES // size)):
        rows = torch.arange(start, stop)
        block = attention_map(system, slice(start, stop))
        before = block.unflatten(-1, (read, ports)).unflatten(-3, (len(rows), -1))
        after = before.clone()
        for _, apply in changes:
            apply(after, rows)
        difference = (after - before).flatten(-2).flatten(-3, -2)
        added[..., start:stop, :, :] = (difference @ values).unflatten(-2, (len(rows), -1))
    return added


def _runs(rows: Tensor, most: int) -> list[tuple[int, int]]:
    """Consecutive numbers as spans of at most ``most``."""
    breaks = (rows.diff() != 1).nonzero().flatten() + 1
    parts = [part for span in rows.tensor_split(breaks) for part in span.split(most)]
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]
