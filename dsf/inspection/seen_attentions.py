"""The calls that a user makes of a model: followed, joined, and returned with their maps.

A model that generates is called with the prompt first and with one token after another then. What
a mixer was given in these calls, one behind the other, is one call on the whole sequence: its maps
are those of the sequence, and an edit of it reaches every new token. ``attentions`` reads the maps
of every mixer as ``dsf.inspect`` does, without its repetition in float64.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial, wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from dsf.evaluate import attention_map
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Through, call_output, recording
from dsf.inspection.capture.containers import Computed, is_cache, tensors_held
from dsf.inspection.capture.isolation import replaced, uncompiled
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import reading_in
from dsf.inspection.entry import inspect
from dsf.inspection.errors import InspectionError
from dsf.inspection.examine import sequences
from dsf.inspection.families.registry import Known, known_modules
from dsf.inspection.model_input import MASK, numbers_in
from dsf.inspection.rebuild import captured_layers
from dsf.inspection.results.layers import Inspection
from dsf.inspection.softmax.attention import causal_bias, is_of_library, recording_attention
from dsf.inspection.softmax.follower import recording_softmax
from dsf.inspection.support_table import asks_the_interface

CallKey = tuple[Through, str, int]
"""By which way a call was recorded, in which module, and which of its calls it is."""
Exchange = Callable[[CallKey, Call], Tensor | None]
"""From a joined call to what its mixer is to return instead; None to leave its output."""


def key_of(call: Call, counted: Counter[tuple[Through, str]]) -> CallKey:
    place = call.through, call.name
    counted[place] += 1
    return *place, counted[place]


@dataclass
class Followed:
    """One sequence as the model was called on it: at once, or a prompt and what continues it.

    ``ids`` are the token numbers of all calls, joined, ``steps`` how many every call added,
    ``caches`` what the latest returned to be continued, ``has_cache`` whether it was given one.
    """

    model: nn.Module
    known: Known
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    ids: Tensor | None = None
    steps: list[int] = field(default_factory=list)
    calls: dict[CallKey, list[Call]] = field(default_factory=dict)
    caches: list[Any] = field(default_factory=list)
    has_cache: bool = False
    exchange: Exchange | None = None
    _maps: dict[tuple[int, int | None], Mapping[str, Tensor]] = field(default_factory=dict)

    def maps(self, calls: int | None = None, last: int | None = None) -> Mapping[str, Tensor]:
        """The maps after so many calls, or their ``last`` rows, in running order."""
        key = len(self.steps) if calls is None else calls, last
        if key not in self._maps:
            layers = sequences(list(self.joined(calls)), self.known)
            self._maps[key] = Computed(
                {each[0].name: cache(partial(_map_of, *each, last=last)) for each in layers}
            )
        return self._maps[key]

    def joined(self, calls: int | None = None) -> Iterator[Call]:
        """Of every mixer one call on the sequence, after so many calls of the model."""
        for several in self.calls.values():
            yield joined(several[:calls])

    def is_continued_by(self, named: Mapping[str, Any]) -> bool:
        """Whether a call with these arguments continues a cache of this sequence."""
        given = [part for part in named.values() if is_cache(part)]
        if not any(part is cache for part in given for cache in self.caches):
            return False
        lengths = {length for part in given if (length := _length(part))}
        if lengths and lengths != {sum(self.steps)}:
            raise InspectionError(
                f"the cache holds {lengths.pop()} tokens, but {sum(self.steps)} were followed. "
                "Beams, assistants and caches of a fixed size cannot be followed: generate "
                "greedily or by sampling."
            )
        return True


def _length(cache: Any) -> int:
    """How many tokens a cache holds; 0 where it does not say."""
    try:
        return int(cache.get_seq_length())
    except Exception:  # a cache without attention, or of another library
        return 0


@contextmanager
def following(
    model: nn.Module,
    known: Known,
    *,
    begin: Callable[[Followed], Exchange | None] = lambda _: None,
    finish: Callable[[Followed, Any], Any] = lambda _, output: output,
) -> Iterator[list[Followed]]:
    """Follow every call of ``model`` inside the ``with`` block.

    Args:
        begin: called when a sequence begins; what it returns exchanges outputs of its mixers.
        finish: called after every call with what the model returned; returns what the user gets.

    Yields:
        The latest sequence, in a list that is empty before the first call.
    """
    original = model.forward
    latest: list[Followed] = []
    busy = [False]
    listens = not _is_of_interface(model, known)

    @wraps(original)
    def forward(*inputs: Any, **named: Any) -> Any:
        if busy[0]:
            return original(*inputs, **named)
        busy[0] = True
        try:
            if not latest or not latest[0].is_continued_by(named):
                caches = filter(is_cache, named.values())
                held = (one for cache in caches for one in tensors_held(cache))
                if any(bool(one.any()) for one in held if one.is_floating_point()):
                    raise InspectionError(
                        "the cache holds tokens that were not followed. Call the model on them "
                        "inside the 'with' block, too."
                    )
                latest[:] = [Followed(model, known, inputs, dict(named))]
                latest[0].exchange = begin(latest[0])
            output = _followed(latest[0], original, inputs, named, listens)
            return finish(latest[0], output)
        finally:
            busy[0] = False

    with replaced(model, "forward", forward):
        yield latest


def _is_of_interface(model: nn.Module, known: Known) -> bool:
    """Whether the attention of a library model is recorded without listening to calls of torch."""
    if not is_of_library(model):
        return False
    if getattr(model, "_supports_attention_backend", True):
        return True
    read = {part for path in known for part in model.get_submodule(path).modules()}
    return asks_the_interface(frozenset(type(part) for part in model.modules() if part not in read))


def _followed(
    sequence: Followed,
    original: Callable[..., Any],
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    listens: bool,
) -> Any:
    """Call the model once, and add what its mixers were given to the sequence."""
    counts, calls = Counter[tuple[Through, str]](), list[Call]()
    ids = numbers_in(inputs, named)
    if isinstance(ids, Tensor) and ids.ndim == 2 and not ids.is_floating_point():
        sequence.ids = ids if sequence.ids is None else torch.cat([sequence.ids, ids], dim=1)
    sequence.steps.append(ids.shape[1] if isinstance(ids, Tensor) and ids.ndim > 1 else 0)

    def note(call: Call) -> Tensor | None:
        key = key_of(call, counts)
        sequence.calls.setdefault(key, []).append(call)
        return None if sequence.exchange is None else sequence.exchange(key, call)

    where = ModuleStack(
        sequence.model,
        claimed=set(sequence.known),
        exchange=note,
        keeps_passes=False,
        looks_around=False,
    )
    watched = {path: sequence.model.get_submodule(path) for path in sequence.known}
    with (
        recording_softmax(where, calls) if listens else nullcontext(),
        recording_attention(sequence.model, where, calls),
        recording(watched, calls, where),
    ):
        output = original(*inputs, **named)
    parts = output.values() if isinstance(output, Mapping) else ()
    sequence.has_cache = any(map(is_cache, named.values()))
    sequence.caches = [part for part in (output, *parts, *named.values()) if is_cache(part)]
    return output


def joined(calls: Sequence[Call]) -> Call:
    if len(calls) == 1:
        return replace(calls[0], arguments=dict(calls[0].arguments))
    first = calls[0]
    if first.through is Through.INTERFACE:
        arguments = _joined_attention(calls)
    elif first.through is Through.MODULE:
        steps = [call_output(call.output).shape[1] for call in calls]
        arguments = {
            name: _joined([call.arguments.get(name) for call in calls], steps)
            for name in first.arguments
        }
    else:
        raise InspectionError(
            f"{first.name}: its attention was found as {first.through.value}, and a continued "
            "cache can be followed only through hooks or the library's attention interface. Call "
            "the model on the whole sequence."
        )
    output = torch.cat([call_output(call.output) for call in calls], dim=1)
    return replace(first, arguments=arguments, output=output)


def _joined_attention(calls: Sequence[Call]) -> dict[str, Any]:
    given = [call.arguments for call in calls]
    queries = [one["query"] for one in given]
    steps = [part.shape[-2] for part in queries]
    found = {**given[-1], "query": torch.cat(queries, dim=-2)}
    is_cross = not getattr(calls[0].module, "is_causal", True)
    if is_cross:
        if any(one.get("attention_mask") is not None for one in given):
            pairs = zip(given, steps, strict=True)
            masks = [one["attention_mask"].expand(-1, -1, n, -1) for one, n in pairs]
            found["attention_mask"] = torch.cat(masks, dim=-2)
        return found
    before = given[0]["key"].shape[-2] - steps[0]
    for name in ("key", "value"):
        parts = [one[name][..., -n:, :] for one, n in zip(given[1:], steps[1:], strict=True)]
        found[name] = torch.cat([given[0][name], *parts], dim=-2)
    total = found["key"].shape[-2]
    rows, end = [], before
    for one, n in zip(given, steps, strict=True):
        end += n
        keys = one["key"].shape[-2]
        mask = one.get("attention_mask")
        if mask is None:
            device = queries[0].device
            mask = torch.zeros(1, 1, n, keys, dtype=torch.float64, device=device)
            mask = causal_bias((n, keys), device) if one["is_causal"] and n > 1 else mask
        mask = mask[..., :keys].expand(-1, -1, n, -1)
        rows.append(pad(mask, (end - keys, total - end), value=-torch.inf))
    samples, heads = (max(row.shape[axis] for row in rows) for axis in (0, 1))
    whole = torch.cat([row.expand(samples, heads, -1, -1) for row in rows], dim=-2)
    return {**found, "attention_mask": whole, "is_causal": False}


def _joined(parts: Sequence[Any], steps: Sequence[int]) -> Any:
    """An argument of a module joined along tokens; its state is that before the first call."""
    first = parts[0]
    if type(first) in (tuple, list) and all(type(part) is type(first) for part in parts):
        return type(first)(_joined(each, steps) for each in zip(*parts, strict=True))
    at = 1 if isinstance(first, Tensor) and first.ndim > 1 else 0
    if not isinstance(first, Tensor) or first.shape[at : at + 1] != (steps[0],):
        return first
    fit = all(
        isinstance(part, Tensor) and part.ndim == first.ndim and part.shape[at] == n
        for part, n in zip(parts, steps, strict=True)
    )
    if fit:
        return torch.cat(list(parts), dim=at)
    last = parts[-1]
    if isinstance(last, Tensor) and last.ndim == first.ndim and last.shape[at] == sum(steps):
        return last  # a mask of all tokens
    if first.ndim == 2 and all(part is None for part in parts[1:]):
        more = first.new_ones(first.shape[0], sum(steps[1:]))  # a mask of the prompt alone
        return torch.cat([first, more], dim=1)
    return first


FIELD, CROSS = "attentions", "cross_attentions"
ENCODER, DECODER = "encoder_attentions", "decoder_attentions"


class StepAttentions(Sequence[Tensor]):
    """The rows of the new tokens of one call, the latest, computed when they are looked at."""

    def __init__(self, sequence: Followed):
        self._sequence, self._calls = sequence, len(sequence.steps)

    @property
    def maps(self) -> Mapping[str, Tensor]:
        last = None if self._calls == 1 else self._sequence.steps[self._calls - 1]
        return self._sequence.maps(self._calls, last)

    def __getitem__(self, index: Any) -> Any:
        names = list(self.maps)[index]
        return self.maps[names] if isinstance(names, str) else tuple(map(self.maps.get, names))

    def __len__(self) -> int:
        return len(self._sequence.calls)


class SeenAttentions:
    """What was seen of a model inside ``with dsf.attentions(model) as seen``.

    Attributes:
        maps: by the name of each mixer its map over the latest sequence, ``sample head query key``
            (channels, or channels of heads, in place of heads where a mixer has those), computed
            when it is looked up. A prompt and what was generated from it are one sequence.
    """

    def __init__(self, latest: Sequence[Followed]):
        self._latest = latest

    @property
    def maps(self) -> Mapping[str, Float[Tensor, "sample head query key"]]:
        return self._sequence.maps()

    @property
    def inspection(self) -> Inspection:
        """What ``dsf.inspect`` finds on the latest sequence: measures, errors and everything else.

        Raises:
            InspectionError: if the model was not called, or it refuses the joined sequence.
        """
        sequence = self._sequence
        if len(sequence.steps) == 1:
            return inspect(sequence.model, *sequence.inputs, **sequence.named)
        mask = sequence.named.get(MASK)
        if mask is not None:
            more = mask.new_ones(mask.shape[0], sum(sequence.steps[1:]))
            mask = torch.cat([mask, more], dim=1)
        named: dict[str, Any] = {} if mask is None else {MASK: mask}
        return inspect(sequence.model, input_ids=sequence.ids, **named)

    @property
    def _sequence(self) -> Followed:
        if not self._latest:
            raise InspectionError(
                "attentions: expected a call of the model inside the 'with' block, got none."
            )
        return self._latest[0]


def _map_of(call: Call, adapter: Adapter, family: str, *, last: int | None) -> Tensor:
    """The map of one call, or its ``last`` rows, in the number type of the module's output."""
    dtype = call_output(call.output).dtype
    narrow = torch.float64 if dtype is torch.float64 else torch.float32
    for precision in (narrow, torch.float64):
        try:
            with reading_in(precision):
                maps = []
                for each in captured_layers(call, adapter, family):
                    system = adapter.read(each).system()
                    rows = None if last is None else slice(system.steps - last, system.steps)
                    found = attention_map(system, rows=rows)  # perhaps of heads of channels
                    maps.append(found.unsqueeze(1) if found.ndim == 3 else found.flatten(1, -3))
            break
        except RuntimeError:  # some layers are read in double precision alone
            if precision is torch.float64:
                raise
    return (torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]).to(dtype)


@contextmanager
def attentions(model: nn.Module, *, adapters: Sequence[Adapter] = ()) -> Iterator[SeenAttentions]:
    """Have a model return the maps of all its token mixers while you call it.

    Inside the ``with`` block ``output.attentions`` holds one map for every mixer in the order of
    the run, softmax attention or not, each ``sample head query key``; nothing else changes. Calls
    with a cache, as in generation, have the rows of their new tokens, computed when they are looked
    at, and ``seen.maps`` those of all tokens. Maps are as exact as the number type of the run;
    ``seen.inspection`` verifies them.

    Args:
        model: a torch module.
        adapters: how to read modules of your own, as for ``dsf.inspect``.

    Raises:
        InspectionError: inside the block, if a cache is continued that was not filled there, or
            that beams, assistants or a fixed size reorder.

    Example:
        >>> import dsf, torch
        >>> from dsf.loading import load_model
        >>> model = load_model(dsf.models.folder("qwen3_next")).model
        >>> with dsf.attentions(model) as seen:
        ...     output = model(input_ids=torch.arange(1, 6)[None])
        >>> [tuple(map.shape) for map in output.attentions]
        [(1, 2, 5, 5), (1, 4, 5, 5), (1, 4, 5, 5)]
        >>> list(seen.maps)[:2]
        ['model.layers.0.self_attn', 'model.layers.1.linear_attn']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"attentions: 'model' expected a torch module, got {type(model).__name__}. Load a "
            "checkpoint first: dsf.loading.load_model(folder).model."
        )
    model = uncompiled(model)
    known = known_modules(model, adapters)

    def finish(sequence: Followed, output: Any) -> Any:
        if not isinstance(output, MutableMapping):  # a tensor, or a tuple: there is no place
            return output
        step, is_step = StepAttentions(sequence), sequence.has_cache  # as one of generation has
        if DECODER not in getattr(type(output), "__annotations__", ()):
            output[FIELD] = step if is_step else tuple(step)
        elif not is_step:
            for name, maps in _by_field(model, step).items():
                output[name] = maps
        return output

    with following(model, known, finish=finish) as latest:
        yield SeenAttentions(latest)


def _by_field(model: Any, step: StepAttentions) -> dict[str, tuple[Tensor, ...]]:
    """The maps of an encoder and a decoder by the field of the output that is for them."""
    encoder = model.get_encoder()
    paths = dict(model.named_modules())
    inside = {path for path, part in paths.items() if any(part is one for one in encoder.modules())}
    found: dict[str, list[Tensor]] = {ENCODER: [], DECODER: [], CROSS: []}
    for name, map in step.maps.items():
        causal = getattr(paths.get(name), "is_causal", True)
        found[ENCODER if name in inside else DECODER if causal else CROSS].append(map)
    return {name: tuple(maps) for name, maps in found.items()}
