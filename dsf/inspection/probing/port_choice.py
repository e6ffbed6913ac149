"""Chooses the places of a module between which its values are mixed, by trying them.

A tensor is taken for the values of a mixer if the module is affine from it to a later one, other
tokens move there when one of its tokens is exchanged, and everything made before it is left as it
was. It is exchanged wherever it is read, or, where the module is not affine then, only in some of
these places: the input of a state-space model also makes its step sizes, which are left alone.
Of several pairs that one wins between which channels keep to themselves: it takes fewest passes.

Where no projection tells which input holds the values, and along which axis: exchanging an entry of
values moves others along the axis of tokens alone, later ones only, or by a map that is the same
for several channels. Neither holds of queries, nor of the input of a linear layer.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import chain, islice
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.containers import mapped, tensors_in
from dsf.inspection.capture.modes import at_rest
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import dtype_of, in_double
from dsf.inspection.capture.weights import double_copy
from dsf.inspection.causal import coordinates
from dsf.inspection.causal.coordinates import Coordinates, all_before, is_place, numbered
from dsf.inspection.causal.tracker import Tracker
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing import driven
from dsf.inspection.probing.driven import (
    Driven,
    FollowedCall,
    Layout,
    Port,
    Ports,
    layout_of,
    rows_beside,
)
from dsf.inspection.probing.factors import factors_of
from dsf.inspection.recording import Exchanged, Recording, Value, recorded, values_in
from dsf.inspection.results.layers import ALL

ROUNDINGS = 256
"""So many units of the last place of a number type count as rounding."""


def followed(layer: Captured, ports: Sequence[Port] = ()) -> FollowedCall:
    args, kwargs = driven.as_called(layer.module, dict(layer.arguments))
    inside = {
        id(tensor): (name, next(made, None))
        for name, part in layer.arguments.items()
        for made in (iter(layer.made_of.get(name, ())),)
        for tensor in tensors_in(part)
    }
    given = args, kwargs
    known = [inside.get(id(part), ("", None)) for part in tensors_in(given)]
    try:
        return _followed(double_copy(layer.module), given, known, ports, in_double)
    except InspectionError:
        raise
    except Exception as error:  # whatever the code of a module does in float64
        if is_out_of_memory(error):
            raise
    kind = dtype_of(layer.module)

    @cache  # one in two places stays one
    def cast(part: Tensor) -> Tensor:
        return part.to(kind) if part.dtype is torch.float64 else part

    given = mapped(given, cast)
    rounding = ROUNDINGS * torch.finfo(kind).eps
    return _followed(layer.module, given, known, ports, nullcontext, rounding)


def _followed(
    module: nn.Module,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    known: Sequence[tuple[str, Coordinates | None]],
    ports: Sequence[Port],
    guard: Callable[[], AbstractContextManager[Any]],
    rounding: float = driven.ROUNDING,
) -> FollowedCall:
    tensors = tensors_in(given)
    pairs = list(zip(tensors, [made for _, made in known], strict=True))
    # A mask that the model makes of nothing has no tokens, unless nothing else has.
    has_tokens = any(made is not None and one.is_floating_point() for one, made in pairs)
    made_of = [
        made if made is not None or has_tokens else numbered(tensor, f"input {place}")
        for place, (tensor, made) in enumerate(pairs)
    ]
    inner = dict(module.named_modules())
    functions = {one.name: driven.owner_of(module, one) for one in ports if one.name not in inner}
    tracker, where = Tracker(), ModuleStack(module, set())
    with guard(), where.followed(), tracker.following_on(where, tensors, made_of):
        recording = recorded(module, *given, functions=functions, known=tracker.of)
    meetings = [one.meeting for one in tracker.mixings if is_place(one.meeting.axis)]
    sure = frozenset(one.axis for one in meetings if one.is_known and not one.chooses)
    maybe = frozenset(one.axis for one in meetings)
    # What is not known is taken to keep samples apart, unless nothing else tells tokens apart.
    met = sure or frozenset(axis for axis in maybe if not coordinates.counts_samples(axis)) or maybe
    along = met | frozenset(before for axis in met for before in all_before(axis))
    names = [name for name, _ in known]
    choices = tuple(dict.fromkeys(one.how for one in meetings if one.is_known and one.chooses))
    return FollowedCall(recording, made_of, names, rounding, along, choices)


FEWEST_AXES = 3
"""Samples or heads, tokens and channels."""


def value_among(call: FollowedCall, *, wanted: str | None = None, fewest: int = 1) -> Ports | None:
    """The input that holds the values; None where there is none."""
    given, output = call.recording.given, call.recording.first_output
    places = [place for place, made in enumerate(call.made_of) if _is_plain(made)]
    if len(places) < fewest or not output.dtype.is_floating_point:
        return None
    search, tried = PortSearch(call), {}
    for place in places:
        if wanted in {None, call.names[place]}:
            tried[place] = search.direct(given[place])
    found = {place: one for place, one in tried.items() if one is not None}
    if not found:
        return None
    best = min(found, key=lambda place: found[place][0])
    return replace(found[best][1], names=(f"({call.names[best]})", "the output"))


def _is_plain(found: Coordinates | None) -> bool:
    """Whether a tensor is an input as it came: its axes are those of a source of its own."""
    if found is None or found.columns or len(found.shape) < FEWEST_AXES:
        return False
    axes = list(found.planes)
    return (
        len({axis.source for axis in axes if axis.source.kind == "input"}) == 1
        and [(axis.number, axis.size) for axis in axes] == [*enumerate(found.shape)]
        and all(axis.source is axes[0].source for axis in axes)
    )


SEARCH_PASSES, SEARCH_OPERATIONS = 256, 2**16
"""The most passes that a search takes, and the most operations that these run."""
MOST_WEIGHED = 16
"""Of so many pairs it is asked how much of what a token moves they explain."""
REPLAYS = 8
"""Of a whole program, about as many are run to see how much one pair explains."""
MOST_OF_IT = 0.9
"""A pair that explains so much is taken where measuring all would take too many passes."""
MOST_APART = 4
"""The same of pairs between which every token is mapped to itself."""
MOST_GROUPS = 8
"""A tensor that is read by more pieces of code than this is only exchanged in all of them."""
Places = dict[Value, Layout]


@dataclass(frozen=True)
class Found:
    """A pair of places, and how well it suits.

    Attributes:
        is_bounded: whether the values lie between 0 and 1, as decays and gates do.
    """

    ports: Ports
    cost: int
    is_apart: bool
    is_bounded: bool

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, int]:
        """Smaller is better; of equals the first that was found wins."""
        ports = self.ports
        is_held = bool(ports.factors)
        return is_held, not self.is_apart, self.is_bounded, bool(ports.kept), self.cost


def named(call: FollowedCall, value: Port, response: Port) -> Ports:
    """The places that two ports name, with the axes that the run showed, or these ports say."""
    (start, kept), (end, _) = value_at(call, value), value_at(call, response)
    names = value.where, response.where or "the output"
    enters, leaves = call.layout(start), call.layout(end)
    if value.view is response.view is driven.as_it_is and enters and leaves and enters.fits(leaves):
        return Ports(start, end, kept, names)
    layouts = {start: driven.viewed(start, value), end: driven.viewed(end, response)}
    return Ports(start, end, kept, names, layouts)


def value_at(call: FollowedCall, port: Port) -> tuple[Value, frozenset[int]]:
    """The tensor that passes a port, as for ``passing``."""
    if port.name:
        return driven.passing(call.recording, port)
    if port.argument is None:
        return call.recording.first_output, frozenset()
    if port.argument not in call.names:
        raise InspectionError(
            f"Port '{port.where}': the module was not given a tensor '{port.argument}'. Name one "
            f"that it was given: {', '.join(filter(None, call.names)) or 'there is none'}."
        )
    return call.recording.given[call.names.index(port.argument)], frozenset()


class PortSearch:
    """The search for the ports of one call."""

    def __init__(self, call: FollowedCall, response: Port | None = None):
        self._call, self._recording, self._rounding = call, call.recording, call.rounding
        read = _read(self._recording)
        output = self._recording.first_output
        self._read_at = {one: at for one, at in read.items() if one.region != output.region}
        self._read_at[output] = math.inf
        self._put_out = self._recording.making(output)
        if response is not None:
            wanted = value_at(call, response)[0].region
            self._read_at = {one: at for one, at in self._read_at.items() if one.region == wanted}
        self._returned_by: dict[Any, str] = {}
        self._given_to: dict[Any, str] = {}
        for passed in self._recording.calls:
            for one in values_in(passed.output)[:1]:
                self._returned_by.setdefault(one.region, passed.name)
            for one in values_in((passed.args, passed.kwargs))[:1]:
                self._given_to[one.region] = passed.name
        self._rows_beside = cache(lambda one, *axes: rows_beside(call.coordinates(one), *axes))
        self._bent: dict[str, float] = {}
        self._has_mixing = True  # between the places

    def best(
        self, worth: Callable[[Driven], float] | None = None, *, most: int = sys.maxsize
    ) -> Found:
        """The best pair of places.

        Args:
            worth: how much of what a token moves in the module the map between two places explains,
                nan where that is not known; a pair that explains all comes before others.
        """
        found: list[Found] = []
        shares: dict[Found, float] = {}
        length = max(len(self._recording.operations), 1)
        weighed = min(MOST_WEIGHED, SEARCH_OPERATIONS // (REPLAYS * length))

        def is_all(one: Found) -> bool:
            if worth is None:
                return True
            if one not in shares and len(shares) < weighed:
                shares[one] = worth(Driven(self._call, one.ports))
            return shares.get(one, math.nan) >= ALL

        tried = (self._all_tried(has_own_rows=has_own) for has_own in (True, False))
        for new in chain.from_iterable(tried):
            found += new
            good = (one for one in new if not any(one.rank[:-1]))  # no other need be looked for
            best = next(filter(is_all, good), None)
            if best is not None and best.cost <= most:
                return best
        in_order = sorted(found, key=lambda one: (one.cost > most, one.rank))
        whole = next((one for one in in_order if is_all(one)), None)
        known = {one: share for one, share in shares.items() if not math.isnan(share)}
        if whole is not None and whole.cost > most:  # most of it for few passes is more than none
            cheap = (one for one in known if one.cost <= most and known[one] >= MOST_OF_IT)
            whole = max(cheap, key=known.__getitem__, default=whole)
        if whole is None and worth is not None:
            # Tokens may meet in factors of a map of each to itself, as in attention over channels.
            shares.clear()
            self._has_mixing = False
            more = chain.from_iterable(self._all_tried(has_own_rows=True))
            latest = sorted(more, key=lambda one: (one.cost > most, -self._time(one), one.rank))
            whole = next((one for one in latest[:MOST_APART] if is_all(one)), None)
        if whole is None and not found:
            raise UnreadableError(self._unfound())
        return whole or max(in_order, key=lambda one: known.get(one, -1.0))

    def direct(self, given: Value) -> tuple[tuple[bool, bool], Ports] | None:
        """An input and the output, if the input may hold values; with the rank of the pair."""
        # Tokens are its only axis along which an entry moves others. Smaller ranks are better: an
        # initial state has not the tokens of the output, and one that moves later entries only, or
        # earlier ones, holds tokens for sure. A linear layer mixes channels, which are the last
        # axis.
        output = self._recording.first_output
        if len(given.shape) != len(output.shape) or not given.dtype.is_floating_point:
            return None
        pairs = zip(given.shape, output.shape, strict=True)
        other = [axis for axis, (size, rows) in enumerate(pairs) if size != rows]
        if len(other) > 1:
            return None
        found = []
        for axis in other or range(len(given.shape)):
            made = [numbered(self._recording.tensor(one), "values") for one in (given, output)]
            columns, rows = (  # of the axes besides that of tokens the first holds samples
                layout_of(one, frozenset({list(one.planes)[axis]}), frozenset(one.planes))
                for one in made
            )
            if columns is None or rows is None:
                continue
            places = {output: rows if other else columns}
            trial = _Exchanged(self._recording, given, columns, frozenset())
            ends = [self._mixing(trial, places, [end]) for end in (0, columns.sizes[1] - 1)]
            if any(ends):
                found.append((axis, columns, places, ends[0] != ends[1] and not other))
        if len(found) != 1:
            return None
        ((axis, columns, places, is_one_sided),) = found
        best = next(iter(self._pairs(given, columns, frozenset(), places)), None)
        is_last = axis == len(given.shape) - 1
        if best is None or (not is_one_sided and (is_last or not best.is_apart)):
            return None
        rank = bool(other), not is_one_sided
        return rank, replace(best.ports, layouts={given: columns, **places})

    def linear_places(
        self, value: Value, layout: Layout, is_linear: Callable[[Value], bool]
    ) -> list[Found]:
        """The pairs of one tensor with places that are known to be linear in it."""
        later = self._places(value, layout, has_own_rows=True)
        linear = {one: place for one, place in later.items() if is_linear(one)}
        return self._pairs(value, layout, frozenset(), linear) if linear else []

    def _all_tried(self, *, has_own_rows: bool) -> Iterator[list[Found]]:
        """The pairs from every tensor, to places with its tokens or with other rows."""
        start = self._recording.replays
        most = min(SEARCH_PASSES, SEARCH_OPERATIONS // max(len(self._recording.operations), 1))
        most = most if self._has_mixing else most // MOST_APART
        for value, layout in self._values():
            if self._recording.replays - start > most:
                return
            try:
                places = self._places(value, layout, has_own_rows=has_own_rows)
                yield from self._tried(value, layout, places)
            except Exception as error:  # operations may refuse other numbers
                if is_out_of_memory(error):
                    raise

    def _values(self) -> Iterator[tuple[Value, Layout]]:
        """Tensors that may hold values, the earliest first; of views of the same numbers one."""
        seen: set[Any] = set()
        made = (one.outs for one in self._recording.operations if not one.writes)
        for value in chain(self._recording.given, chain.from_iterable(made)):
            layout = self._call.layout(value)
            if layout is not None and not value.is_spread and value.region not in seen:
                seen.add(value.region)
                yield value, layout

    def _places(self, value: Value, layout: Layout, *, has_own_rows: bool) -> Places:
        """Later tensors with the samples of a value, and with its tokens or other rows."""
        between = (self._recording.made_of([value]) - {value.memory}) & self._put_out
        found = {}
        for one in self._read_at:  # in the order in which they are read
            if one.memory not in between:
                continue
            place = self._call.layout(one)
            if has_own_rows:
                fits = place is not None and place.fits(layout)
            elif place is None:
                place = self._rows_beside(one, layout.sample_axes, layout.token_axes)
                kept = None if place is None else place.samples[:, : len(layout.sample_axes)]
                fits = kept is not None and torch.equal(kept, layout.samples)
            else:
                is_alike = place.sample_axes == layout.sample_axes and not place.fits(layout)
                # Rows without one of the axes are sums over it, of tokens or of channels.
                has_axes = len(place.token_axes) >= len(layout.token_axes)
                has_axes |= not set(place.token_axes) & set(layout.token_axes)
                fits = is_alike and has_axes and torch.equal(place.samples, layout.samples)
            if fits and place is not None:
                found[one] = place
        return found

    def _tried(self, value: Value, layout: Layout, later: Places) -> Iterator[list[Found]]:
        """Pairs from one tensor, exchanged everywhere, then only in some places."""
        if not later:
            return

        def end(pairs: list[Found]) -> float:
            return max((self._time(one) for one in pairs), default=-math.inf)

        whole = self._pairs(value, layout, frozenset(), later)
        yield whole
        if end(whole) < max(self._read_at[one] for one in later):
            yield self._given_factors(value, layout, later)
        # The operations that read a tensor, together where one line of code reads it often.
        by_line: dict[tuple[str, str, str], list[int]] = {}
        for number in self._recording.readers(value):
            one = self._recording.operations[number]
            by_line.setdefault((one.place, one.name, one.path), []).append(number)
        groups = [*by_line.values()]
        if not 1 < len(groups) <= MOST_GROUPS:
            return

        def exchanged(chosen: list[list[int]]) -> list[Found]:
            kept = frozenset(use for group in groups if group not in chosen for use in group)
            return self._pairs(value, layout, kept, later)

        # The place up to which one of them is affine alone is not given up for further ones.
        alone = [(exchanged([group]), group) for group in groups]
        alone.sort(key=lambda one: -end(one[0]))
        best, chosen = alone[0][0], [alone[0][1]]
        for _, group in alone[1:] if best else ():
            wider = exchanged([*chosen, group])
            if end(wider) >= end(best):
                best, chosen = wider, [*chosen, group]
        yield best

    def _given_factors(self, value: Value, layout: Layout, later: Places) -> list[Found]:
        """Pairs up to places that are linear in a value where its factors are held."""
        trial = _Exchanged(self._recording, value, layout, frozenset())
        changed = [
            layout.laid_out(trial.values + size * trial.step, self._recording.tensor(value))
            for size in (1, -driven.PAIRED)
        ]
        factors = factors_of(self._recording, value, changed, later, self._rounding)
        held = {one: self._worded(one) for one in factors}
        return self._pairs(value, layout, frozenset(), later, held) if held else []

    @at_rest()
    def _pairs(
        self,
        value: Value,
        layout: Layout,
        kept: frozenset[int],
        later: Places,
        factors: Mapping[Value, str] = MappingProxyType({}),
    ) -> list[Found]:
        """The pairs with a tensor that is exchanged but in ``kept`` places."""
        trial = _Exchanged(self._recording, value, layout, kept, factors)
        values, step = trial.values, trial.step
        one = trial.moved(values + step, later)
        other = trial.moved(values - driven.PAIRED * step, later)
        affine = {}
        for response, place in later.items():
            size = one[response].abs().max()
            if not size > self._limit(response, place):
                continue
            apart = (other[response] + driven.PAIRED * one[response]).abs().max()
            bent = (apart / (driven.PAIRED * size)).item()
            if bent <= self._rounding:
                affine[response] = place
            else:
                self._bent[f"{self._worded(value)} to {self._worded_place(response)}"] = bent
        ends = dict.fromkeys((0, layout.sizes[1] // 2, layout.sizes[1] - 1))
        if affine and not factors and self._has_mixing:  # else each token may be mapped to itself
            affine = self._mixing(trial, affine, ends)
        return self._ranked(trial, affine) if affine else []

    def _mixing(self, trial: "_Exchanged", places: Places, tokens: Iterable[int]) -> Places:
        """The places where others move when one of some tokens is exchanged."""
        step = trial.step
        found: Places = {}
        for token in tokens:
            alone = trial.values
            alone[:, token] += step[:, token]
            for one, elsewhere in trial.moved(alone, places).items():
                elsewhere[:, places[one].rows_of(token, trial.layout)] = 0
                if bool((elsewhere.abs() > self._limit(one, places[one])).any()):
                    found[one] = places[one]
            if len(found) == len(places):
                break
        return {one: place for one, place in places.items() if one in found}

    def _limit(self, response: Value, place: Layout) -> Tensor:
        """What of a change there is rounding."""
        return self._rounding * place.arranged(self._recording.tensor(response)).abs().max()

    def _ranked(self, trial: "_Exchanged", places: Places) -> list[Found]:
        """The places by the passes that the map from the values to them takes."""
        # Of equal ones the last; of dearer ones those that lie behind all cheaper ones.
        values, (_, steps, channels) = trial.values, trial.layout.sizes
        same = driven.random_values(values[..., :1], seed=3).expand_as(values)
        alike = trial.moved(values + same, places)
        single = values.clone()
        single[..., 0] += same[..., 0]
        alone = trial.moved(single, places)
        bounded = bool((values >= 0).all()) and bool((values <= 1).all())
        found = []
        for one, place in places.items():
            cost, is_apart = steps * channels, False
            if place.sizes[2] % channels == 0 and channels > 1:
                limit = self._limit(one, place)
                width = driven.head_width(alike[one], alone[one], channels, limit)
                is_apart = width > 0
                count = driven.groups_of(alone[one], channels, limit)
                cost = math.ceil(steps / width) if is_apart else cost // count
            elif place.sizes[2] == channels == 1:
                cost, is_apart = steps, True
            names = self._worded(trial.value), self._worded_place(one)
            layouts = {} if self._call.layout(one) is place else {one: place}
            ports = Ports(trial.value, one, trial.kept, names, layouts, factors=trial.factors)
            found.append(Found(ports, cost, is_apart, bounded))
        in_order = sorted(found, key=lambda one: (one.cost, -self._time(one)))
        latest, best = -1.0, []
        for each in in_order:  # what costs more is of use only if more lies before it
            if self._time(each) > latest:
                latest = self._time(each)
                best.append(each)
        # What is returned besides may be made of an earlier place alone.
        whole = (one for one in in_order if one.ports.response.memory in self._before_all)
        return list(dict.fromkeys([*best, *islice(whole, 1)]))

    @cached_property
    def _before_all(self) -> set[int]:
        """The versions of memory that several outputs are all made of."""
        outputs = [one for one in values_in(self._recording.output) if one.dtype.is_floating_point]
        made_of = map(self._recording.making, outputs if len(outputs) > 1 else ())
        return set.intersection(*made_of) if len(outputs) > 1 else set()

    def _time(self, found: Found) -> float:
        return self._read_at[found.ports.response]

    def _worded(self, value: Value) -> str:
        if value.region in self._returned_by:
            return self._returned_by[value.region]
        if value in self._recording.given:
            return "its input"
        operations = self._recording.operations
        made = next(one for one in operations if any(o.region == value.region for o in one.outs))
        return f"what '{made.name}' returns in {made.place}"

    def _worded_place(self, value: Value) -> str:
        if self._read_at[value] == math.inf:
            return "the output"
        if value.region in self._given_to:
            return f"{self._given_to[value.region]}(input)"
        operation = self._recording.operations[int(self._read_at[value])]
        return f"what '{operation.name}' is given in {operation.place}"

    def _unfound(self) -> str:
        if not self._bent:
            return (
                "no values were found in it: no tensor of its code, exchanged alone, moves other "
                "tokens of a later one"
            )
        where = min(self._bent, key=lambda name: self._bent[name])
        return (
            f"it is not linear in its values: superposition error {self._bent[where]:.1e} from "
            f"{where}"
        )


@dataclass(frozen=True, eq=False)
class _Exchanged:
    """A tensor that is exchanged but in ``kept`` places, while factors are held."""

    recording: Recording
    value: Value
    layout: Layout
    kept: frozenset[int]
    factors: Mapping[Value, str] = field(default_factory=dict)

    @property
    def values(self) -> Tensor:
        return self.layout.arranged(self.recording.tensor(self.value))

    @property
    def step(self) -> Tensor:
        return driven.random_values(self.values, seed=0)

    def moved(self, values: Tensor, places: Places) -> dict[Value, Tensor]:
        """By how much the numbers in some places change with the values."""
        new = Exchanged(self.value, lambda old: self.layout.laid_out(values, old), self.kept)
        found = self.recording.replay([new, *self.recording.held(self.factors)], places)
        return {
            one: place.arranged(found[one]) - place.arranged(self.recording.tensor(one))
            for one, place in places.items()
        }


def _read(recording: Recording) -> dict[Value, float]:
    """Tensors of numbers by the first operation that reads them; of views that with most axes."""
    seen: set[Any] = set()
    found: dict[Value, float] = {}
    views: dict[Any, Value] = {}
    for value in recording.seen:
        if len(value.shape) >= len(views.setdefault(value.region, value).shape):
            views[value.region] = value
    for number, operation in enumerate(recording.operations):
        for value in operation.reads if operation.makes else ():
            if value.memory in operation.writes or not value.dtype.is_floating_point:
                continue
            if value.is_spread:  # several of its elements are one number
                continue
            if value.region not in seen:
                seen.add(value.region)
                found[views[value.region]] = float(number)
    return found
