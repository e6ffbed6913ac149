"""Runs a model once, rebuilds every token mixer and compares it with the captured output."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from math import prod
from operator import attrgetter
from threading import RLock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Invocation, Through, let_go, time_axis
from dsf.inspection.capture.containers import DiskStore, keeping_in, lent
from dsf.inspection.capture.isolation import isolated, uncompiled
from dsf.inspection.capture.modes import at_rest
from dsf.inspection.capture.precision import described, dtype_of, environment, in_double, in_float64
from dsf.inspection.capture.weights import check_runnable, double_copy, is_within
from dsf.inspection.causal.findings import (
    Findings,
    ModuleFinding,
    counted,
    judged,
    settle_slots,
    silent_reason,
)
from dsf.inspection.causal.roles import PADDED, SLOT, is_one_sequence, tokens_along
from dsf.inspection.causal.rules import has_several_tokens
from dsf.inspection.causal.tracker import Tracker
from dsf.inspection.choice import Chosen, chosen_heads, chosen_layers
from dsf.inspection.errors import (
    InspectionError,
    InspectionMemoryError,
    NothingCapturedError,
    ReconstructionError,
    UnreadableError,
    in_words,
    is_fault,
    listed,
)
from dsf.inspection.families.registry import Known, candidates, known_modules
from dsf.inspection.further_mixers import Further, labelled, probe_all, tried
from dsf.inspection.model_input import (
    Spell,
    as_it_ran,
    decoder_texts,
    run,
    tokens_shown,
    with_decoder_tokens,
    without_logits,
    without_loss,
)
from dsf.inspection.probing.probe import Probe, probers
from dsf.inspection.rebuild import Limits, layer_names, on_disk, rebuild
from dsf.inspection.results.layers import InspectedLayer, Inspection, Unsupported
from dsf.inspection.softmax import attention, follower
from dsf.inspection.support_table import THE_MODEL, forecast, not_read
from dsf.runtime.number_types import has_double
from dsf.runtime.reused_memory import REUSED_MEMORY
from dsf.runtime.threads import MOST, each_in_parallel

AUTO = "auto"
FEW = 3
"""Maximum number of module names in a message."""
Each = TypeVar("Each")
Progress = Callable[[str, int, int], None]
"""Progress callback: (stage, done, total)."""

SOFTMAX = {
    Through.INTERFACE: attention.ADAPTER,
    Through.FUSED: attention.ADAPTER,
    Through.FOLLOWED: follower.FOLLOWED,
}


def silent(what: str, done: int, every: int) -> None:
    del what, done, every


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What a model is called with, and the options of ``dsf.inspect``."""

    inputs: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)
    exact: bool = False
    tolerance: float | None = None
    tokens: Sequence[Sequence[str]] | None = None
    token_axis: int | None = None
    spell: Spell | None = None
    name: str | None = None
    strict: bool = False
    layers: Chosen = None
    heads: Chosen = None
    memory: float | None = None
    adapters: Sequence[Adapter] = ()
    probe: Mapping[str, Probe] | Sequence[str] = AUTO
    checks: str = "all"
    progress: Progress = silent


_IN_USE: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()


def examine(model: nn.Module, question: Examination) -> Inspection:
    model = uncompiled(model)
    check_runnable(model)
    inputs = question.inputs
    named = without_logits(model, inputs, without_loss(model, question.named))
    if question.exact:
        (inputs, named), model = in_float64((inputs, named)), wide_copy(model, question.adapters)
    asked = {} if question.probe == AUTO else probers(model, question.probe)
    known = _outside(known_modules(model, question.adapters), asked)
    limits = Limits(guarded=dtype_of(model) is torch.float64, tolerance=question.tolerance)
    title = question.name or type(model).__name__
    expected = forecast(model, known, inputs, named, wide=limits.guarded, memory=question.memory)
    store = None
    if expected is not None:
        expected.check(title)
        store = DiskStore() if expected.uses_disk else None
    watched = {path: model.get_submodule(path) for path in known}
    asks = question.checks != "none" and store is None and _can_be_asked(model)
    possible = _outside(candidates(model, known), asked) if store is None else {}
    kept = [model.get_submodule(path) for path in (*possible, *asked)]
    passes: list[Invocation] = []
    alone = _IN_USE.setdefault(model, RLock())  # until it is as it was, for other threads
    with alone, isolated(model) as changes, REUSED_MEMORY if store is None else nullcontext():
        named = without_loss(model, with_decoder_tokens(model, inputs, named))

        def recorded(tracker: Tracker | None) -> list[Call]:
            with keeping_in(store):
                how: dict[str, Any] = {"tracker": tracker, "kept": kept, "passes": passes}
                return run(model, watched, inputs, named, **how)

        question.progress("running the model, asking what mixes tokens", 0, 1)
        calls, tracker, unfollowed = _followed(
            recorded, (model, inputs, named), asks=asks, tokens=question.token_axis
        )
        if tracker is not None:
            tracker.where.history.in_place = changes()
        further = tried(passes, model, asked, possible, limits)
        if further.calls:  # of modules that are read as a whole instead of what ran in them
            outside = (call for call in calls if not further.covers(call.time))
            calls = sorted([*outside, *further.calls], key=attrgetter("time"))
        with as_it_ran(model):
            calls, found = _asked(
                tracker, calls, further, limits if question.probe == AUTO else None
            )
            rest = _beside(tracker, calls, found, further)
        known |= further.known
        rebuilding = _Rebuilding(
            limits,
            question,
            found,
            further,
            store=store,
            at_a_time=MOST if expected is None else expected.at_a_time,
            padding=_padding(inputs, named),
        )
        made = _made(model, rebuilding, calls, known, tracker)
        missed = [part for _, part in made.refused]
        missed += _unread(model, calls, set(known), found, further)
        if rest is not None and (rest.mixes or rest.is_lost or not missed):
            unfollowed = silent_reason(rest)  # where nothing is listed, something would seem all
        if unfollowed:
            missed.append(Unsupported(type(model).__name__, described(model), unfollowed))
        _let_go(calls, tracker)
    if not made.layers:
        raise _of_nothing(title, made, missed, found)
    return Inspection(
        layers=tuple(layer for _, layer in made.layers),
        unsupported=tuple(missed),
        model=title,
        tokens=None if question.tokens is None else tuple(map(tuple, question.tokens)),
        environment=environment(model),
        forecast=expected,
        checks=found.table,
        decoder_tokens=decoder_texts(named, question.spell),
    )


def _made(
    model: nn.Module,
    rebuilding: "_Rebuilding",
    calls: list[Call],
    known: Known,
    tracker: Tracker | None,
) -> "_Rebuilt":
    """The layers of calls; of modules that are probed instead of attentions in them, these."""
    made, found, further = rebuilding.of(calls, known), rebuilding.asked, rebuilding.further
    instead_of = [
        call
        for call, part in made.refused
        if part.formula is None and call.through is not Through.MODULE and call not in found.refused
    ]
    if rebuilding.question.probe != AUTO or not instead_of or tracker is None:
        return made
    before = len(further.calls)
    with as_it_ran(model):
        limits, where = rebuilding.limits, tracker.where
        probe_all(found.modules, where, limits, further, instead_of=instead_of)
    known |= further.known
    instead = replace(rebuilding, store=None).of(further.calls[before:], known)
    kept = [pair for pair in made.refused if not further.replaces(pair[0])]
    layers = sorted([*made.layers, *instead.layers], key=lambda pair: pair[0])
    return _Rebuilt(layers, [*kept, *instead.refused])


def wide_copy(model: nn.Module, adapters: Sequence[Adapter] = ()) -> nn.Module:
    try:
        twin = double_copy(model)
    except (TypeError, AttributeError) as error:  # such as a lock
        raise InspectionError(
            f"{type(model).__name__} cannot be copied, which exact=True asks for: {error}. Leave "
            "out exact: its layers are compared with their modules in float64 one at a time."
        ) from error
    with in_double():  # buffers that modules computed from others are computed anew
        for path, (adapter, _) in known_modules(twin, adapters).items():
            if adapter.renew is not None:
                adapter.renew(twin.get_submodule(path))
    return twin


def _followed(
    recorded: Callable[[Tracker | None], list[Call]],
    given: tuple[nn.Module, tuple[Any, ...], dict[str, Any]],
    *,
    asks: bool,
    tokens: int | None = None,
) -> tuple[list[Call], Tracker | None, str]:
    """The calls of a run, what followed it, and why nothing could.

    The run is repeated where it took a wrong axis, and without following where that stopped it.
    """
    if not asks:
        return recorded(None), None, ""
    tracker = Tracker(tokens=tokens)
    try:
        calls = recorded(tracker)
        if disputed := tracker.projections.disputed():
            _let_go(calls, tracker)
            tracker = Tracker(disputed, tokens)
            calls = recorded(tracker)
    except InspectionMemoryError:
        raise
    except InspectionError as error:
        reason = in_words(error.__cause__ or error)
        try:
            calls = recorded(None)  # what the model itself raises is raised once more
        except InspectionError as plain:
            model, inputs, named = given
            try:
                twin = deepcopy(model)
                with torch.no_grad(), at_rest():
                    twin(*lent(inputs), **lent(named))
            except Exception:
                raise plain from plain.__cause__
            raise InspectionError(
                f"inspect: the model runs on its inputs, but not while its operations are recorded "
                f"({reason}), as with nested tensors. Give it padded tensors, or parts of it alone."
            ) from error
        unfollowed = (
            f"its run could not be followed ({reason}), so that it is not known whether its maps "
            "are all that it does to tokens"
        )
        return calls, None, unfollowed
    if (tied := tracker.projections.tied()) is not None:
        _let_go(calls, tracker)
        name, low, high = tied
        raise InspectionError(
            f"inspect: it is not known which axis of {name} holds tokens: weights and norms of the "
            f"model sum over axis {low} and over axis {high}. Pass tokens={low} or tokens={high}."
        )
    return calls, tracker, ""


def _let_go(calls: Sequence[Call], tracker: Tracker | None) -> None:
    """Break the reference cycles of a finished run, so that its memory is freed."""
    let_go(calls)
    if tracker is not None:
        tracker.where.tracker = None


def _asked(
    tracker: Tracker | None, calls: list[Call], further: Further, limits: Limits | None
) -> tuple[list[Call], Findings]:
    """The calls with those that were probed, and what a run that was followed says of them all."""
    if tracker is None:
        return calls, Findings()
    found = judged(tracker, calls, further.covers)
    settle_slots(found, tracker.run, calls)
    if limits is not None:
        known = {call.module for call in calls if call.through is Through.MODULE}
        asked = [one for one in found.modules if one.module not in known]
        probe_all(asked, tracker.where, limits, further, is_known=bool(known))
    kept = [one for one in calls if not further.replaces(one)]
    further_ones = (one for one in further.calls if one not in kept)
    calls = sorted([*kept, *further_ones], key=attrgetter("time"))
    settle_slots(found, tracker.run, calls)
    return calls, found


def _beside(
    tracker: Tracker | None, calls: Sequence[Call], found: Findings, further: Further
) -> ModuleFinding | None:
    """What the model does to tokens besides what is read or listed; None if nothing."""
    if tracker is None or tracker.run is None or not calls:
        return None
    name_of = tracker.where.name_of
    listed = [one for one in found.modules if further.reason(name_of(one.module), one)]
    return found.rest_of(tracker.run, calls, listed)


def _can_be_asked(model: nn.Module) -> bool:
    """Whether all weights lie on one device that has double precision; modules run again there."""
    devices = {part.device for part in (*model.parameters(), *model.buffers())}
    return len(devices) < 2 and all(map(has_double, devices))


def _outside(known: dict[str, Each], roots: Collection[str]) -> dict[str, Each]:
    return {
        path: each
        for path, each in known.items()
        if not any(is_within(root, path) for root in roots)
    }


def _unread(
    model: nn.Module, calls: Sequence[Call], read: set[str], found: Findings, further: Further
) -> list[Unsupported]:
    """The modules that mix tokens and were not read: as the run showed, then as they are called."""
    shown = []
    path_of = {module: path for path, module in model.named_modules()}
    called = {path_of.get(call.module, call.name) for call in calls}
    for one in found.modules:
        path = path_of.get(one.module, one.name)
        reason = further.reason(path, one)
        if reason and not isinstance(one.module, torch.jit.ScriptModule):
            formula = None if one.is_finite else math.nan
            shown.append(Unsupported(one.name, described(one.module), reason, formula))
    if not found.asked:
        shown += [
            Unsupported(path, described(model.get_submodule(path)), words)
            for path, words in further.failed.items()
        ]
    known = {one.name for one in shown}
    if type(model).__name__ in known or "" in further.failed:
        known.add(THE_MODEL)
    named = [one for one in not_read(model, called, read) if one.name not in known]
    return [*shown, *named]


@dataclass(frozen=True)
class _Rebuilt:
    """What became of recorded calls: layers by the time they ended, and those that were refused."""

    layers: list[tuple[int, InspectedLayer]] = field(default_factory=list)
    refused: list[tuple[Call, Unsupported]] = field(default_factory=list)

    def refuse(self, call: Call, name: str, reason: str, formula: float | None = None) -> None:
        self.refused.append((call, Unsupported(name, described(call.module), reason, formula)))

    @contextmanager
    def refusing(self, call: Call, name: str, *, strict: bool) -> Iterator[None]:
        """Inside, a layer that cannot be read or is not reproduced is refused."""
        try:
            yield
        except UnreadableError as error:
            self.refuse(call, name, str(error).rstrip("."))
        except ReconstructionError as error:
            if strict:
                raise
            self.refuse(call, name, str(error).rstrip("."), error.formula)


@dataclass(frozen=True)
class _Rebuilding:
    limits: Limits
    question: Examination
    asked: Findings
    further: Further
    store: DiskStore | None = None
    at_a_time: int = MOST
    padding: Tensor | None = None

    def of(self, calls: list[Call], known: Known) -> _Rebuilt:
        made, found = _Rebuilt(), sequences(calls, known)
        layers = self.question.layers
        wanted: list[set[str] | None] = [None] * len(found)
        if layers is not None:
            names = [layer_names(*each) for each in found]
            every = [name for several in names for name in several]
            chosen = chosen_layers(every, layers)
            wanted = [chosen.intersection(several) for several in names]
        done = each_in_parallel(
            lambda number: self._of_call(*found[number], wanted[number]),
            range(len(found)),
            most=self.at_a_time,
        )
        with at_rest():
            for number in range(len(found)):
                self.question.progress("layer", number, len(found))
                one = next(done)
                made.layers.extend(one.layers)
                made.refused.extend(one.refused)
        return made

    def _of_call(
        self, call: Call, adapter: Adapter, family: str, wanted: set[str] | None
    ) -> _Rebuilt:
        made, strict = _Rebuilt(), self.question.strict
        if wanted is not None and not wanted:
            return made
        reason = call.refused or self.asked.refused.get(call)
        if reason:
            made.refuse(call, call.name, reason)
            return made
        with made.refusing(call, call.name, strict=strict):
            if call in self.further.layers:
                self._add(made, call, replace(self.further.layers[call], name=call.name))
                return made
            given = (
                call.made_of.get(name, ()) for name in (adapter.takes, "query", "key", "input")
            )
            if any(made and has_several_tokens(made) for each in given for made in each):
                call.besides = SEVERAL
            if call.besides:
                made.refuse(call, call.name, f"its map was read, but {call.besides}")
            for name, build in rebuild(call, adapter, family, self.limits):
                if wanted is None or name in wanted:
                    with made.refusing(call, name, strict=strict):
                        layer, prober = build(), self.further.probers.get(call.module)
                        layer = layer if prober is None else labelled(layer, prober.driven)
                        self._add(made, call, layer, takes=adapter.takes)
        if not made.refused:
            call.arguments, call.output, call.surroundings = {}, None, None
        return made

    def _add(self, made: _Rebuilt, call: Call, layer: InspectedLayer, *, takes: str = "") -> None:
        layer, heads = _checked(layer, call, self.asked, takes), self.question.heads
        if heads is not None:
            count = layer.system.batch[-1] if len(layer.system.batch) > 1 else 1
            layer = replace(layer, heads=chosen_heads(layer.name, count, heads))
        layer = replace(layer, share=self.further.shares.get(call, layer.share))
        if self.padding is not None and _is_map_of(layer, self.padding):
            layer = replace(layer, padding=self.padding)
        is_rebuilt = call not in self.further.layers
        layer = on_disk(layer, self.store) if self.store is not None and is_rebuilt else layer
        made.layers.append((call.time, layer))


SEVERAL = (
    "the features that it is given in one place are of several tokens, which meet where it sums "
    "them up; no map has that"
)


def _padding(inputs: Sequence[Any], named: Mapping[str, Any]) -> Bool[Tensor, "sample time"] | None:
    """Which tokens a mask hides; None where it hides none, or there are two texts."""
    shown = tokens_shown(inputs, named)
    has_decoder = any(name.startswith("decoder_") for name in named)
    return None if shown is None or has_decoder or bool(shown.all()) else ~shown.cpu()


def _is_map_of(layer: InspectedLayer, padding: Bool[Tensor, "sample time"]) -> bool:
    """Whether a layer has a map of the tokens of every sample, in their order."""
    system, (samples, steps) = layer.system, padding.shape
    in_order = layer.row_order is None and layer.column_order is None
    has_samples = layer.axes[:1] == ("sample",) and system.batch[0] == samples
    reads = getattr(system, "read_steps", system.steps)
    return in_order and has_samples and system.steps == steps == reads


def _checked(layer: InspectedLayer, call: Call, found: Findings, takes: str) -> InspectedLayer:
    """A layer with what the run was asked about it, and the tokens of its rows and columns.

    Args:
        takes: the argument of its module that holds its values; empty for a layer that was probed,
            which has them.
    """
    maps, share = call.maps, math.nan if call.besides else found.share_of(call)
    layer = replace(layer, share=share, checks=found.records(call, layer.name))
    if maps is not None:
        rows, columns = maps.tokens()
        return replace(
            layer,
            columns=maps.columns,
            row_order=rows,
            column_order=columns,
            row_input=maps.row_input,
            column_input=maps.column_input,
        )
    is_apart = layer.axes[:1] == ("sample",) and found.mixed & counted(call)[1]
    layer = replace(layer, axes=("window", *layer.axes[1:])) if is_apart else layer
    return _with_tokens(layer, call, takes) if found.asked and takes else layer


def _with_tokens(layer: InspectedLayer, call: Call, takes: str) -> InspectedLayer:
    """A layer with the tokens that its module was given; -1 where it is not known which."""
    batch, steps = layer.system.batch, layer.system.steps
    reads = getattr(layer.system, "read_steps", steps)
    rows, columns = call.tokens, call.tokens
    if call.through is not Through.MODULE:
        rows = _of_none(steps) if call.seen.get("query") is None else None
        columns = _of_none(reads) if call.seen.get("value") is None else None
    elif rows is None:
        columns = _tokens_given(call, takes, reads)
        rows = _tokens_given(call, "query", steps) if "query" in call.made_of else columns
        count = prod(axis.size for axis in counted(call)[0])
        is_known = rows is not None and bool((rows >= 0).any())
        if is_known and is_one_sequence(rows, columns, count):
            return layer

    def laid_out(tokens: Tensor | None, count: int) -> Tensor | None:
        if tokens is None or not batch or tokens.shape not in ((1, count), (batch[0], count)):
            return None
        if bool((tokens == torch.arange(count, device=tokens.device)).all()):
            return None
        tokens = tokens.reshape(len(tokens), *[1] * (len(batch) - 1), count)
        return tokens.expand(*batch, count)

    rows, columns = laid_out(rows, steps), laid_out(columns, reads)
    kinds = layer.columns
    if columns is not None and bool((columns < 0).any()):
        kinds = SLOT if bool((columns < 0).all()) else PADDED
    return replace(layer, row_order=rows, column_order=columns, columns=kinds)


def _of_none(count: int) -> Tensor:
    return torch.full((1, count), -1)


def _tokens_given(call: Call, name: str, count: int) -> Tensor | None:
    """The tokens of an argument of a module; None where it has not said which that is."""
    if not (made := call.made_of.get(name)):
        return None
    if made[0] is None:
        return _of_none(count)
    return tokens_along(made[:1], time_axis(call.module, len(made[0].shape)))


def sequences(calls: list[Call], known: Known) -> list[tuple[Call, Adapter, str]]:
    """One call for every sequence with its adapter and family, uniquely named, in running order."""
    of_module: dict[tuple[Through, str], list[Call]] = {}
    for call in calls:
        of_module.setdefault((call.through, call.name), []).append(call)
    found = []
    for (through, name), several in of_module.items():
        kind = type(several[0].module)
        if through is Through.MODULE:
            adapter, family = known[name]
        else:  # llama for transformers.models.llama...
            homes = (cls.__module__.split(".") for cls in kind.__mro__)
            of_library = (home[2] for home in homes if home[:2] == ["transformers", "models"])
            adapter, family = SOFTMAX[through], next(of_library, "softmax")
        shown = name or kind.__name__
        try:
            joined = adapter.join(several)
        except Exception as error:  # such as another signature than that of the class it is for
            joined = several[:1]
            how = "" if is_fault(error) else f" ({in_words(error)})"
            joined[0].refused = f"its calls are not those of its family{how}"
        for k, call in enumerate(joined):
            call.name = f"{shown} (call {k + 1})" if k > 0 else shown
            found.append((call, adapter, family))
    return sorted(found, key=lambda entry: entry[0].time)


def _of_nothing(
    title: str, made: _Rebuilt, missed: Sequence[Unsupported], found: Findings
) -> InspectionError:
    """Why no layer was read: none was reproduced, or none was found."""
    refused = [part for _, part in made.refused]
    if wrong := [part.formula for part in refused if part.formula is not None]:
        return ReconstructionError("; ".join(part.reason for part in refused), max(wrong))
    if missed:
        reasons = "; ".join(f"{part.name} ({part.kind}): {part.reason}" for part in missed)
        seen = f"Modules that look like token mixers but could not be read: {reasons}."
    elif not found.asked:
        seen = "No module of it looks like a token mixer."
    elif not found.modules and found.front:
        seen = (
            "Tokens meet in it only where fewer tokens are made of them, or before that, as in a "
            f"front end of convolutions: {listed(found.front, FEW)}. Behind it no module mixes "
            "tokens. Give a larger input if it shrinks to a single token, or pass probe=(path,) to "
            "read one of these modules."
        )
    elif not found.modules:
        taken = [f"axis {axis} of {name}" for name, axis in found.channels.items()]
        seen = (
            "No module of it mixes tokens: its run was followed from the tokens of its inputs, and "
            "in no operation did two of them meet."
        )
        if taken:
            instead = dict.fromkeys(f"tokens={axis}" for axis in found.channels.values())
            seen += (
                f" Projections sum over {', '.join(taken)}, so that channels are counted there; if "
                f"it is tokens, pass {' or '.join(instead)}."
            )
    else:
        asked = ", ".join(f"{one.name} ({one.result})" for one in found.modules)
        seen = (
            "No module of it mixes tokens: where tokens may meet, one of them was replaced, and no "
            f"other moved: {asked}."
        )
    return NothingCapturedError(f"{title}: no token mixer could be read. {seen}")
