"""``attentions``: the maps of all token mixers, while a user calls a model or has it generate.

The library fills ``output.attentions`` for softmax attention alone, and only where it computes
every weight. Here every mixer has its map, of the shape that an attention's has. The maps are read
from what the mixers were given, as ``dsf.inspect`` does, without its repetition in float64.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.evaluate import attention_map
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, call_output
from dsf.inspection.capture.isolation import uncompiled
from dsf.inspection.capture.precision import reading_in
from dsf.inspection.entry import inspect
from dsf.inspection.errors import InspectionError
from dsf.inspection.examine import sequences
from dsf.inspection.families.registry import Known, known_modules
from dsf.inspection.model_input import MASK
from dsf.inspection.own_calls import Followed, following
from dsf.inspection.rebuild import captured_layers
from dsf.inspection.results.layers import Inspection
from dsf.systems.composite import Operator

FIELD, CROSS, ENCODER, DECODER = (
    "attentions",
    "cross_attentions",
    "encoder_attentions",
    "decoder_attentions",
)


class _Lazy(Mapping[str, Tensor]):
    """Maps by name, each computed when it is first looked up."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]):
        self._makers, self._found = makers, dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._found:
            self._found[name] = self._makers[name]()
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"maps of {', '.join(self._makers)}"


class StepAttentions(Sequence[Tensor]):
    """The rows of the new tokens of one call, computed when they are looked at.

    Args:
        calls: how many calls of the model the sequence had until then, this one included.
    """

    def __init__(self, sequence: Followed, known: Known, calls: int):
        self._sequence, self._known, self._calls = sequence, known, calls

    @cached_property
    def maps(self) -> Mapping[str, Tensor]:
        """The rows by the name of each mixer."""
        last = None if self._calls == 1 else self._sequence.steps[self._calls - 1]
        return _maps(self._sequence, self._known, self._calls, last)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        names = list(self.maps)
        if isinstance(index, slice):
            return tuple(self.maps[name] for name in names[index])
        return self.maps[names[index]]

    def __len__(self) -> int:
        return len(self._sequence.calls)


class SeenAttentions:
    """What was seen of a model inside ``with dsf.attentions(model) as seen``.

    Attributes:
        maps: by the name of each mixer its map over the latest sequence, ``sample head query key``
            (channels in place of heads where a mixer has those), computed when it is looked up. A
            prompt and what was generated from it are one sequence.
    """

    def __init__(self, latest: Sequence[Followed], known: Known):
        self._latest, self._known = latest, known

    @property
    def maps(self) -> Mapping[str, Float[Tensor, "sample head query key"]]:
        return _maps(self._sequence, self._known)

    @property
    def inspection(self) -> Inspection:
        """What ``dsf.inspect`` finds on the latest sequence: measures, errors and everything else.

        Raises:
            InspectionError: if the model was not called, or it refuses the joined sequence.
        """
        sequence = self._sequence
        if not sequence.is_continued:
            return inspect(sequence.model, *sequence.inputs, **sequence.named)
        mask = sequence.named.get(MASK)
        if mask is None:
            return inspect(sequence.model, input_ids=sequence.ids)
        more = mask.new_ones(mask.shape[0], sum(sequence.steps[1:]))
        mask = torch.cat([mask, more], dim=1)
        return inspect(sequence.model, input_ids=sequence.ids, attention_mask=mask)

    @property
    def _sequence(self) -> Followed:
        if not self._latest:
            raise InspectionError(
                "attentions: expected a call of the model inside the 'with' block, got none."
            )
        return self._latest[0]


def _maps(
    sequence: Followed, known: Known, calls: int | None = None, last: int | None = None
) -> Mapping[str, Tensor]:
    """The maps of a sequence after so many calls, or their ``last`` rows, in running order."""
    return _Lazy(
        {
            call.name: partial(_map_of, call, adapter, family, last)
            for call, adapter, family in sequences(list(sequence.joined(calls)), known)
        }
    )


def _map_of(call: Call, adapter: Adapter, family: str, last: int | None) -> Tensor:
    """The map of one call, or its ``last`` rows, in the number type of the module's output."""
    dtype = call_output(call.output).dtype
    narrow = torch.float64 if dtype is torch.float64 else torch.float32
    for precision in (narrow, torch.float64):
        try:
            with reading_in(precision):
                layers = captured_layers(call, adapter, family)
                maps = [_rows(adapter.read(each).system(), last) for each in layers]
            break
        except RuntimeError:  # some layers are read in double precision alone
            if precision is torch.float64:
                raise
    return (torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]).to(dtype)


def _rows(system: Operator, last: int | None) -> Tensor:
    rows = None if last is None else slice(system.steps - last, system.steps)
    found = attention_map(system, rows=rows)
    return found.unsqueeze(1) if found.ndim == 3 else found


@contextmanager
def attentions(model: nn.Module, *, adapters: Sequence[Adapter] = ()) -> Iterator[SeenAttentions]:
    """Have a model return the maps of all its token mixers while you call it.

    Inside the ``with`` block ``output.attentions`` holds one map for every mixer in the order of
    the run, softmax attention or not, each ``sample head query key``; nothing else changes. While
    the model generates, every step has the rows of its new tokens, and ``seen.maps`` those of all
    tokens. Maps are as exact as the number type of the run; ``seen.inspection`` verifies them.

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
    generating = [0]

    def finish(sequence: Followed, output: Any) -> Any:
        if not isinstance(output, MutableMapping):  # a tensor, or a tuple: there is no place
            return output
        step = StepAttentions(sequence, known, len(sequence.steps))
        if DECODER not in getattr(type(output), "__annotations__", ()):
            output[FIELD] = step if generating[0] else tuple(step)
        elif not generating[0]:
            for name, maps in _by_field(model, step).items():
                output[name] = maps
        return output

    host: Any = model  # a module with a method ``generate``, or without
    generate, own = getattr(host, "generate", None), vars(host).get("generate")

    def generated(*inputs: Any, **named: Any) -> Any:
        generating[0] += 1
        try:
            return generate(*inputs, **named) if callable(generate) else None
        finally:
            generating[0] -= 1

    if callable(generate):
        host.generate = generated
    try:
        with following(model, adapters, finish=finish) as latest:
            yield SeenAttentions(latest, known)
    finally:
        if own is not None:
            host.generate = own
        else:
            vars(host).pop("generate", None)


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
