"""Where the values of a module enter and where its response leaves: searched by name and by trial.

A call of a module as a tape: in float64 where it runs so, else in the module's number type.

Which input of a module holds its values, and along which axis, where no projection tells.

A module that is given queries, keys and values, or the numbers of a scan, is affine from its values
to its response, and exchanging one of their entries moves others along the axis of tokens alone:
along the axes of samples, heads and channels none. Along tokens only later ones move, or the map is
the same for several channels, which come behind. Neither holds of queries, whose channels alone are
mixed, nor of the input of a linear layer.

Searches an unknown module by names for ports where its values may enter and its response leave.

For modules that cannot be followed operation by operation.

Chooses the places of a module between which its values are mixed, by trying them.

A tensor is taken for the values of a mixer if the module is affine from it to a later place, other
tokens move there when one of its tokens is exchanged, and everything made before it is left as it
was. It is exchanged wherever it is read, or, where the module is not affine then, only in some of
these places: the input of a state-space model also makes its step sizes, which are left alone.
Of several pairs that pair wins between which channels keep to themselves, since it takes the fewest
passes and says the most.
"""

import inspect as signatures
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.containers import tensors_in
from dsf.inspection.capture.precision import dtype_of, in_double
from dsf.inspection.capture.weights import double_copy
from dsf.inspection.causal.coordinates import Coordinates, Source, numbered
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing.driven import (
    PAIRED,
    ROUNDING,
    Driven,
    Exchange,
    Port,
    Ports,
    Repeated,
    as_called,
    as_it_is,
    mixes,
    random_values,
    superposition,
)
from dsf.inspection.probing.tape import (
    GIVEN,
    OUTPUT,
    Exchanging,
    Layout,
    Record,
    Spot,
    Tape,
    Use,
    layout_of,
    rows_beside,
)
from dsf.inspection.results.layers import ALL

ROUNDINGS = 256
"""So many units of the last place of a number type count as rounding."""
Given = list[Coordinates | None]
Result = TypeVar("Result")


def recorded(layer: Captured, told: Collection[Source] = ()) -> tuple[Tape, Record, float]:
    """A call that can be repeated, its operations, and what counts as rounding in it, relative.

    Args:
        told: as for ``Tape.recorded``.
    """
    return taped(layer, lambda tape, given, _: tape.recorded(given, told=told))


def taped(
    layer: Captured, work: Callable[[Tape, Given, float], Result]
) -> tuple[Tape, Result, float]:
    """A call that can be repeated, what was found of it, and what counts as rounding, relative.

    Args:
        work: is given the tape, the coordinates of its tensors, and what counts as rounding.
    """
    module, made_of = layer.module, layer.made_of
    args, kwargs = as_called(module, dict(layer.arguments))
    known = {
        id(tensor): made
        for name, part in layer.arguments.items()
        for tensor, made in zip(tensors_in(part), made_of.get(name, []), strict=False)
    }
    try:
        tape = Tape(double_copy(module), args, kwargs, guard=in_double)
        return tape, work(tape, _given(tape, known), ROUNDING), ROUNDING
    except UnreadableError:
        raise
    except Exception as error:  # whatever the code of a module does in float64
        if is_out_of_memory(error):
            raise
    kind = dtype_of(module)
    leaves, tree = tree_flatten((args, kwargs))
    cast = {id(leaf): _cast(leaf, kind) for leaf in leaves}  # one tensor in two places stays one
    own = [cast[id(leaf)] for leaf in leaves]
    known |= {
        id(new): known[id(old)] for new, old in zip(own, leaves, strict=True) if id(old) in known
    }
    args, kwargs = tree_unflatten(own, tree)
    tape, rounding = Tape(module, args, kwargs), ROUNDINGS * torch.finfo(kind).eps
    return tape, work(tape, _given(tape, known), rounding), rounding


def _given(tape: Tape, known: Mapping[int, Coordinates | None]) -> Given:
    return [
        known.get(id(tensor)) or numbered(tensor, f"input {place}")
        for place, tensor in enumerate(tape.tensors)
    ]


def _cast(leaf: Any, kind: torch.dtype) -> Any:
    is_wide = isinstance(leaf, Tensor) and leaf.dtype is torch.float64
    return leaf.to(kind) if is_wide else leaf


FEWEST_AXES = 3
"""Samples or heads, tokens and channels."""


@dataclass(frozen=True, eq=False)
class ValueInput:
    """An input that holds the values, and the layouts of all inputs and of the output."""

    ports: Ports
    record: Record


def value_among(
    tape: Tape,
    given: Given,
    rounding: float,
    names: list[str],
    *,
    wanted: str | None = None,
    fewest: int = 1,
) -> ValueInput | None:
    """The input that holds the values; None where there is none.

    Args:
        given: the coordinates of the inputs.
        rounding: the largest relative difference taken for rounding.
        names: of the arguments that they are.
        wanted: the name of the only one that is looked at.
        fewest: the least number of inputs with axes for tokens.
    """
    places = [place for place, found in enumerate(given) if _is_plain(found)]
    if len(places) < fewest:
        return None
    plain = tape.run(Exchanging())
    if not plain.is_floating_point():
        return None
    looked_at = [place for place in places if wanted in {None, names[place]}]
    found = {place: _found(tape, place, plain, rounding) for place in looked_at}
    values = {place: one for place, one in found.items() if one is not None}
    if not values:
        return None
    best = min(values, key=lambda place: values[place].rank)
    inputs = tuple(values[best].columns if k == best else None for k in range(len(given)))
    words = f"({names[best]})", "the output"
    ports = Ports(Spot(GIVEN, best), frozenset(), OUTPUT, words)
    return ValueInput(ports, Record(given=inputs, output=values[best].rows))


def _is_plain(found: Coordinates | None) -> bool:
    """Whether a tensor is an input as it came: its axes are those of a source of its own."""
    if found is None or found.columns or len(found.shape) < FEWEST_AXES:
        return False
    axes = list(found.planes)
    return (
        {axis.source.kind for axis in axes} == {"input"}
        and len({axis.source for axis in axes}) == 1
        and [axis.number for axis in axes] == list(range(len(found.shape)))
        and [axis.size for axis in axes] == list(found.shape)
    )


@dataclass(frozen=True, eq=False)
class _Values:
    """An input that may hold values.

    Attributes:
        columns, rows: the layouts of the input and of the output.
        is_one_sided: whether tokens move later ones only, or earlier ones.
    """

    columns: Layout
    rows: Layout
    is_one_sided: bool

    @property
    def rank(self) -> tuple[bool, bool]:
        """Smaller is better: an initial state has not the tokens of the output."""
        return self.columns is not self.rows, not self.is_one_sided


def _found(tape: Tape, place: int, plain: Tensor, rounding: float) -> _Values | None:
    """An input if it may hold values."""
    value = tape.tensors[place]
    if value.ndim != plain.ndim or not value.is_floating_point():
        return None
    other = [axis for axis in range(value.ndim) if value.shape[axis] != plain.shape[axis]]
    trial = _Trial(tape, place, plain, rounding)
    if len(other) > 1 or not trial.is_affine():
        return None
    reach = {axis: trial.reach(axis) for axis in range(value.ndim) if axis not in other}
    mixed = [*other, *(axis for axis, moves in reach.items() if any(moves))]
    if len(mixed) != 1:
        return None
    (tokens,) = mixed
    is_one_sided = not other and reach[tokens][0] != reach[tokens][1]
    may_be_linear = tokens == value.ndim - 1  # a linear layer mixes channels, the same for all
    columns, rows = _layout(value, tokens), _layout(plain, tokens)
    if columns is None or rows is None:
        return None
    if not is_one_sided and (may_be_linear or not trial.is_shared(tokens)):
        return None
    return _Values(columns, rows if other else columns, is_one_sided)


class _Trial:
    """How the output moves when an input is exchanged."""

    def __init__(self, tape: Tape, place: int, plain: Tensor, rounding: float):
        self._tape, self._place, self._plain = tape, place, plain
        self._step = random_values(tape.tensors[place], seed=0)
        self._rounding, self._limit = rounding, rounding * plain.abs().max()

    def _moved(self, by: Tensor) -> Tensor:
        mode = Exchanging(Spot(GIVEN, self._place), lambda old: old + by.to(old))
        return self._tape.run(mode) - self._plain

    def is_affine(self) -> bool:
        """Whether the output is moved, and by as many times as much as the input is."""
        first = self._moved(self._step)
        size = first.abs().max()
        bent = (self._moved(-PAIRED * self._step) + PAIRED * first).abs().max()
        return bool(size > self._limit) and bool(bent <= PAIRED * self._rounding * size)

    def reach(self, axis: int) -> tuple[bool, bool]:
        """Whether the first entry along an axis moves others, and whether the last does."""
        found = []
        for entry in (0, -1):
            alone = torch.zeros_like(self._step)
            alone.select(axis, entry).copy_(self._step.select(axis, entry))
            change = self._moved(alone)
            change.select(axis, entry).zero_()
            found.append(bool((change.abs() > self._limit).any()))
        return found[0], found[1]

    def is_shared(self, tokens: int) -> bool:
        """Whether equal numbers along an axis beside that of tokens are answered by equal ones."""
        for axis, size in enumerate(self._step.shape):
            if axis == tokens or size == 1:
                continue
            alike = self._moved(self._step.narrow(axis, 0, 1).expand_as(self._step))
            if bool(((alike - alike.narrow(axis, 0, 1)).abs() <= self._limit).all()):
                return True
        return False


def _layout(tensor: Tensor, tokens: int) -> Layout | None:
    """Of the axes beside that of tokens the first holds samples, the others heads and channels."""
    found = numbered(tensor, "values")
    axes = list(found.planes)
    return layout_of(found, frozenset({axes[tokens]}), frozenset(axes))


CALLED_VALUE = re.compile(r"(^|[._])(to_|w_|w|c_|in_)?(v|value|values)(_|$)", re.IGNORECASE)
VALUE_ARGUMENTS = ("value", "values", "v")


@dataclass(frozen=True)
class Passed:
    """One call of a submodule that has no submodules: its name, input and output."""

    name: str
    given: Tensor | None
    argument: str
    output: Any


def as_port(given: str | Port) -> Port:
    """A port by its name, or as it is."""
    return Port(given) if isinstance(given, str) else given


def first_linear(call: Repeated, response: Port | None) -> Driven:
    """The first pair of ports between which a module is linear.

    Args:
        response: the port of the response where that is known.

    Raises:
        UnreadableError: if there is none.
    """
    tried: dict[str, float] = {}
    for value, found in pairs(call):
        driven = Driven(call, value, found if response is None else response)
        try:
            values, _, _ = driven.original()
            if not mixes(driven, values):
                continue
            bent = superposition(driven, values)
        except InspectionError:  # not called, or of another shape
            continue
        if bent <= ROUNDING:
            return Driven(call, value, driven.response)
        tried[" to ".join(driven.names)] = bent
    raise UnreadableError(_unfound(tried))


def _unfound(tried: Mapping[str, float]) -> str:
    if not tried:
        return (
            "no values were found in it: name the port where they enter (value='v_proj', or "
            "value='function(argument)')"
        )
    where = min(tried, key=lambda name: tried[name])
    return (
        f"it is not linear in its values: superposition error {tried[where]:.1e} from {where}; "
        "if it is linear between other ports, name them (value=..., response=...)"
    )


def pairs(call: Repeated) -> Iterator[tuple[Port, Port]]:
    """Candidate pairs of a value port and a response port, the likeliest first.

    Candidates for the values: the output of a submodule whose name means values, or of the
    submodule that is given that output; then an argument named like values of a function in the
    file that defines the class; then the module's input. Candidates for the response, for each of
    the first: the inputs of later submodules, the last one first; then the module's output.
    """
    passed = _leaves(call)
    values: list[Tensor] = []
    for place, leaf in enumerate(passed):
        passed_on = any(leaf.given is one for one in values)
        if (CALLED_VALUE.search(leaf.name) or passed_on) and _tokens(leaf.output):
            value = Port(leaf.name)
            values.append(leaf.output)
            for other in reversed(passed[place + 1 :]):
                if _tokens(other.given) == _tokens(leaf.output):
                    yield value, Port(f"{other.name}({other.argument})")
            yield value, Port()
    for port in _functions(call.module):
        yield port, Port(port.name)
    for name, part in call.arguments.items():
        if isinstance(part, Tensor) and part.is_floating_point() and part.ndim == 3:
            yield Port(f"({name})"), Port()
            return


def _leaves(call: Repeated) -> list[Passed]:
    passed: list[Passed] = []

    def hook_for(name: str, module: nn.Module) -> Any:
        argument = next(iter(signatures.signature(module.forward).parameters), "input")

        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            given = args[0] if args and isinstance(args[0], Tensor) else None
            passed.append(Passed(name, given, argument, output))

        return hook

    with ExitStack() as hooks:
        for name, inner in call.module.named_modules():
            if name and next(inner.children(), None) is None:
                hooks.enter_context(inner.register_forward_hook(hook_for(name, inner)))
        call()
    return passed


def _tokens(part: Any) -> tuple[int, ...]:
    """The sizes of sample and time of a ``sample time width`` tensor; empty for anything else."""
    if isinstance(part, Tensor) and part.ndim == 3 and part.is_floating_point():
        return tuple(part.shape[:2])
    return ()


def _functions(module: nn.Module) -> Iterator[Port]:
    file = sys.modules.get(type(module).__module__)
    for name, function in list(vars(file).items()) if file else ():
        if signatures.isfunction(function) and function.__module__ == type(module).__module__:
            taken = signatures.signature(function).parameters
            yield from (Port(f"{name}({one})") for one in VALUE_ARGUMENTS if one in taken)


MOST_UNKNOWN = 64
"""So many of the last places of unknown layout are looked at."""
SEARCH_PASSES = 256
"""The most passes that a search takes."""
MOST_WEIGHED = 16
"""Of so many pairs it is asked how much of what a token moves they explain."""
MOST_GROUPS = 8
"""A tensor that is read by more pieces of code than this is only exchanged in all of them."""
Worth = Callable[["Ports"], float]
Rows = Callable[[Spot, Layout], dict[Use, Layout]]


class TensorsByUse(dict[Use, Tensor]):
    """What was read in one run, by its place.

    Attributes:
        before: what was in the place of the values before.
    """

    before: Tensor


@dataclass(frozen=True)
class Found:
    """A pair of places, and how well it suits.

    Attributes:
        cost: passes that its map takes.
        is_apart: whether channels keep to themselves.
        is_bounded: whether the values lie between 0 and 1, as decays and gates do.
    """

    ports: Ports
    cost: int
    is_apart: bool
    is_bounded: bool

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """Smaller is better; of equals the first that was found wins."""
        return not self.is_apart, self.is_bounded, bool(self.ports.kept), self.cost

    @property
    def is_good(self) -> bool:
        """Whether no other need be looked for."""
        return self.is_apart and not self.is_bounded and not self.ports.kept


def named(layer: Captured, record: Record, value: Port, response: Port) -> Ports | None:
    """The places that two ports name; None where they are no plain tensors of the call."""
    if value.view is not as_it_is or response.view is not as_it_is:
        return None
    spot = _spot_of(layer, record, value)
    use = _use_of(layer.module, record, response)
    if spot is None or use is None:
        return None
    enters, leaves = record.layout_of(spot), record.place_of(use)
    if enters is None or leaves is None or not enters.fits(leaves):
        return None
    return Ports(spot, frozenset(), use, (value.where, response.where or "the output"))


def _spot_of(layer: Captured, record: Record, port: Port) -> Spot | None:
    if not port.name and port.argument is not None and port.argument in layer.arguments:
        args = as_called(layer.module, dict(layer.arguments))
        given = [one for one in tree_flatten(args)[0] if isinstance(one, Tensor)]
        wanted = layer.arguments[port.argument]
        return next((Spot(GIVEN, k) for k, one in enumerate(given) if one is wanted), None)
    made = [spot for spot, path in record.made_by.items() if path == port.name]
    return made[0] if len(made) == 1 and port.argument is None else None


def _use_of(module: nn.Module, record: Record, port: Port) -> Use | None:
    if not port.where:
        return OUTPUT
    inner = dict(module.named_modules()).get(port.name)
    if inner is None or port.argument is None:
        return None
    first = next(iter(signatures.signature(inner.forward).parameters), None)
    return record.input_of(port.name) if port.argument == first else None


class PortSearch:
    """The search for the ports of one call.

    Args:
        rounding: the largest relative difference taken for rounding.
    """

    def __init__(self, tape: Tape, record: Record, *, rounding: float):
        self._tape, self._record, self._rounding = tape, record, rounding
        self._responses = dict(_responses(record))
        self._unknown = dict(list(_unplaced(record))[-MOST_UNKNOWN:])
        self._placed: dict[Use, Layout] = {}
        self._bent: dict[str, float] = {}

    def best(self, worth: Worth | None = None, *, most: int = sys.maxsize) -> Found:
        """The best pair of places.

        Args:
            worth: how much of what a token moves in the module the map between two places explains,
                nan where that cannot be told; a pair that explains all comes before others.
            most: pairs whose map takes more passes than this come last.

        Raises:
            UnreadableError: if there is none; the message says how far from affine the module is.
        """
        found: list[Found] = []
        shares: dict[Found, float] = {}

        def is_all(one: Found) -> bool:
            if worth is None:
                return True
            if one not in shares and len(shares) < MOST_WEIGHED:
                shares[one] = worth(one.ports)
            return shares.get(one, math.nan) >= ALL

        for new in chain(self._all_tried(self._same_rows), self._all_tried(self._other_rows)):
            found += new
            best = next((one for one in new if one.is_good and is_all(one)), None)
            if best is not None:
                return best
        if not found:
            raise UnreadableError(self._unfound())
        in_order = sorted(found, key=lambda one: (one.cost > most, one.rank))
        whole = next((one for one in in_order if is_all(one)), None)
        known = {one: share for one, share in shares.items() if not math.isnan(share)}
        return whole or max(in_order, key=lambda one: known.get(one, -1.0))

    def _all_tried(self, rows: Rows) -> Iterator[list[Found]]:
        """The pairs from every tensor, to the places that ``rows`` gives for it."""
        start = self._tape.passes
        for spot, layout in _values(self._record):
            if self._tape.passes - start > SEARCH_PASSES:
                return
            try:
                yield from self._tried(spot, layout, rows(spot, layout))
            except Exception as error:  # whatever the code of a module does with other numbers
                if is_out_of_memory(error):
                    raise

    def _same_rows(self, spot: Spot, layout: Layout) -> dict[Use, Layout]:
        """Later places with the samples and tokens of a tensor."""
        later = {
            use: place
            for use, place in self._responses.items()
            if _is_later(use, spot) and place.fits(layout)
        }
        uses = self._record.uses.get(spot, [])
        own = [use for use in later if use in uses and use.operation is not None]
        later = {use: place for use, place in later.items() if use not in own}
        return later | self._seen(spot, layout)

    def _other_rows(self, spot: Spot, layout: Layout) -> dict[Use, Layout]:
        """Later places with the samples of a tensor, and with rows that are not its tokens."""
        found = {}
        for use, coordinates in _coordinates_of(self._record):
            if _is_later(use, spot) and coordinates is not None:
                place = rows_beside(coordinates, layout)
                if place is not None:
                    found[use] = place
        for use, place in self._responses.items():
            is_other = not set(place.token_axes) & set(layout.token_axes)
            alike = (place.sample_axes, place.samples) == (layout.sample_axes, layout.samples)
            if _is_later(use, spot) and is_other and alike:
                found[use] = place
        self._placed |= found
        return found

    def _tried(self, spot: Spot, layout: Layout, later: dict[Use, Layout]) -> Iterator[list[Found]]:
        """Pairs from one tensor, exchanged everywhere, then only in some places."""
        if not later:
            return
        whole = self._pairs(spot, layout, frozenset(), later)
        if whole is not None:
            yield whole
        groups = list(self._groups(spot))
        if not 1 < len(groups) <= MOST_GROUPS:
            return

        def exchanged(chosen: list[list[Use]]) -> list[Found]:
            kept = frozenset(use for group in groups if group not in chosen for use in group)
            return self._pairs(spot, layout, kept, later) or []

        alone = [(group, exchanged([group])) for group in groups]
        linear = [group for group, pairs in alone if pairs]
        best = exchanged(linear) if len(linear) > 1 else []
        if not best:
            linear, best = next((([group], pairs) for group, pairs in alone if pairs), ([], []))
        for group in groups:
            if best and group not in linear:
                wider = exchanged([*linear, group])
                linear, best = ([*linear, group], wider) if wider else (linear, best)
        yield best
        last = [
            (group, max(_time(one.ports.response) for one in pairs))
            for group, pairs in alone
            if pairs
        ]
        for time in sorted({time for _, time in last}, reverse=True):
            agreeing = [group for group, end in last if end == time]
            if agreeing != linear:
                yield exchanged(agreeing)

    def _seen(self, spot: Spot, layout: Layout) -> dict[Use, Layout]:
        """Later places of unknown layout where that shows when single tokens are exchanged.

        Where the last token of the values moves one entry of an axis alone, and that is the last of
        as many, the axis counts tokens; so it does where the first token moves the first alone.
        """
        shapes = {
            use: shape
            for use, shape in self._unknown.items()
            if _is_later(use, spot) and shape.numel() % (layout.sizes[0] * layout.sizes[1]) == 0
        }
        if not shapes:
            return {}
        plain = self._raw(spot, layout, shapes, lambda values: values)
        step = random_values(layout.arranged(plain.before), seed=0)
        moved = []
        for cells in ((slice(None), -1), (slice(None), 0), (0, slice(None))):
            chosen = torch.zeros_like(step)
            chosen[cells] = step[cells]
            run = self._raw(spot, layout, shapes, _adding(chosen))
            moved.append(
                {use: run[use] != plain[use] for use in shapes if use in run and use in plain}
            )
        found = {}
        for use, shape in shapes.items():
            if use not in moved[0] or not all(bool(one[use].any()) for one in moved):
                continue
            tokens = _alone(moved[0][use], layout.sizes[1], last=True)
            tokens |= _alone(moved[1][use], layout.sizes[1], last=False)
            samples = _blocks(moved[2][use], layout.sizes[0])
            if len(tokens) == 1 and (layout.sizes[0] == 1 or len(samples - tokens) == 1):
                sample = None if layout.sizes[0] == 1 else next(iter(samples - tokens))
                found[use] = layout.placed(shape, sample, next(iter(tokens)))
        self._placed |= found
        return found

    def _raw(self, spot: Spot, layout: Layout, uses: Iterable[Use], new: Exchange) -> TensorsByUse:
        """What is read at ``uses`` as it is, and what was in the place of the values."""
        found = TensorsByUse()

        def exchange(tensor: Tensor) -> Tensor:
            found.before = tensor
            return layout.laid_out(new(layout.arranged(tensor)), tensor)

        def reader(use: Use) -> Callable[[Tensor], None]:
            def read(tensor: Tensor) -> None:
                found[use] = tensor.clone()

            return read

        self._tape.run(Exchanging(spot, exchange, (), {use: reader(use) for use in uses}))
        return found

    def _groups(self, spot: Spot) -> Iterator[list[Use]]:
        """The places where a tensor is read, together where one line of code reads it often."""
        by_line: dict[tuple[str, str, str], list[Use]] = {}
        for use in self._record.uses.get(spot, []):
            if use.operation is not None:
                operation = self._record.operations[use.operation]
                line = operation.place, operation.name, self._record.submodule_given(use)
                by_line.setdefault(line, []).append(use)
        yield from by_line.values()

    def _pairs(
        self, spot: Spot, layout: Layout, kept: frozenset[Use], later: dict[Use, Layout]
    ) -> list[Found] | None:
        """The pairs with a tensor that is exchanged but in ``kept`` places.

        None if the module is affine from it to none of the places where tokens of it mix.
        """
        base = self._driven(spot, kept, later, lambda values: values)
        values = base.before
        step = random_values(values, seed=0)
        one = self._driven(spot, kept, later, lambda _: values + step)
        other = self._driven(spot, kept, later, lambda _: values - PAIRED * step)
        affine, moved = [], []
        for use in later:
            if use not in base or use not in one or use not in other:
                continue
            first, second = one[use] - base[use], other[use] - base[use]
            size = first.abs().max()
            if not size > self._rounding * base[use].abs().max():
                continue
            moved.append(use)
            bent = ((second + PAIRED * first).abs().max() / (PAIRED * size)).item()
            if bent <= self._rounding:
                affine.append(use)
            else:
                name = f"{self._worded(spot)} to {self._worded_place(use)}"
                self._bent[name] = bent
        if not affine:
            return None if moved else []
        affine_places = {use: later[use] for use in affine}
        mixing = self._mixing(spot, kept, affine_places, (layout, values, step), base)
        if not mixing:
            return None
        return self._ranked(spot, layout, kept, mixing, values, base)

    def _mixing(
        self,
        spot: Spot,
        kept: frozenset[Use],
        places: dict[Use, Layout],
        exchanged: tuple[Layout, Tensor, Tensor],
        base: TensorsByUse,
    ) -> dict[Use, Layout]:
        """The places where other tokens move when one is exchanged.

        Args:
            exchanged: the layout of the values, the values, and what is added to one of them.
        """
        layout, values, step = exchanged
        found: dict[Use, Layout] = {}
        for token in dict.fromkeys((0, values.shape[1] // 2, values.shape[1] - 1)):
            alone = values.clone()
            alone[:, token] += step[:, token]
            run = self._driven(spot, kept, places, _always(alone))
            for use, place in places.items():
                change = run[use] - base[use]
                elsewhere = change.clone()
                if place.fits(layout):
                    elsewhere[:, token] = 0
                if bool((elsewhere.abs() > self._rounding * base[use].abs().max()).any()):
                    found[use] = place
            if len(found) == len(places):
                break
        return {use: place for use, place in places.items() if use in found}

    def _ranked(
        self,
        spot: Spot,
        layout: Layout,
        kept: frozenset[Use],
        places: dict[Use, Layout],
        values: Tensor,
        base: TensorsByUse,
    ) -> list[Found]:
        """The places by the passes that the map from the values to them takes.

        Of equal ones the last; of dearer ones those that lie behind all cheaper ones.
        """
        _, steps, channels = layout.sizes
        same = random_values(values[..., :1], seed=3).expand_as(values)
        alike = self._driven(spot, kept, places, lambda _: values + same)
        single = values.clone()
        single[..., 0] += same[..., 0]
        alone = self._driven(spot, kept, places, lambda _: single)
        bounded = bool((values >= 0).all()) and bool((values <= 1).all())
        found = []
        for use, place in places.items():
            cost, is_apart = steps * channels, False
            if place.sizes[2] % channels == 0 and channels > 1:
                limit = self._rounding * base[use].abs().max()
                width = _width(alike[use] - base[use], channels, limit)
                others = (alone[use] - base[use]).abs()[..., place.sizes[2] // channels :]
                is_apart = width > 1 or not bool((others > limit).any())
                cost = math.ceil(steps / width) if is_apart else cost
            elif place.sizes[2] == channels == 1:
                cost, is_apart = steps, True
            names = self._worded(spot), self._worded_place(use)
            ports = Ports(spot, kept, use, names, self._placed.get(use))
            found.append(Found(ports, cost, is_apart, bounded))
        in_order = sorted(found, key=lambda one: (one.cost, -_time(one.ports.response)))
        latest, best = -1.0, []
        for one in in_order:  # what costs more is of use only if more lies before it
            if _time(one.ports.response) > latest:
                latest = _time(one.ports.response)
                best.append(one)
        return best

    def _driven(
        self,
        spot: Spot,
        kept: frozenset[Use],
        places: dict[Use, Layout],
        new: Exchange,
    ) -> TensorsByUse:
        """What is read at ``places`` with values that ``new`` makes from the original ones."""
        layout = self._record.layout_of(spot)
        assert layout is not None  # noqa: S101  # only such are tried
        found = TensorsByUse()

        def exchange(tensor: Tensor) -> Tensor:
            found.before = layout.arranged(tensor)
            return layout.laid_out(new(found.before), tensor)

        def reader(use: Use, place: Layout) -> Callable[[Tensor], None]:
            def read(tensor: Tensor) -> None:
                if tensor.shape == place.shape:
                    found[use] = place.arranged(tensor.clone())

            return read

        readers = {use: reader(use, place) for use, place in places.items()}
        self._tape.run(Exchanging(spot, exchange, kept, readers))
        return found

    def _worded(self, spot: Spot) -> str:
        if spot in self._record.made_by:
            return self._record.made_by[spot]
        if spot.operation == GIVEN:
            return "its input"
        operation = self._record.operations[spot.operation]
        return f"what '{operation.name}' puts out in {operation.place}"

    def _worded_place(self, use: Use) -> str:
        if use.operation is None:
            return "the output"
        operation = self._record.operations[use.operation]
        path = self._record.submodule_given(use)
        if path:
            return f"{path}(input)"
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


def _is_later(use: Use, spot: Spot) -> bool:
    return use.operation is None or use.operation > spot.operation


def _coordinates_of(record: Record) -> Iterator[tuple[Use, Coordinates | None]]:
    """Places without single tokens of the values, with the coordinates of what is read there."""
    seen: set[Spot] = set()
    for number, operation in record.operations.items():
        for k, coordinates in enumerate(operation.coordinates):
            _, spot = operation.given[k]
            if coordinates is None or (operation.is_written and k == 0) or spot in seen:
                continue
            if spot is not None:
                seen.add(spot)
            yield Use(number, k), coordinates
    yield OUTPUT, record.output_coordinates


def _adding(step: Tensor) -> Exchange:
    return lambda values: values + step


def _alone(moved: Tensor, count: int, *, last: bool) -> set[int]:
    """The axes of ``count`` entries of which only the last, or only the first, moved."""
    end = count - 1 if last else 0
    found = set()
    for axis, size in enumerate(moved.shape):
        others = [k for k in range(moved.ndim) if k != axis]
        if size == count and moved.sum(dim=others).nonzero().flatten().tolist() == [end]:
            found.add(axis)
    return found


def _blocks(moved: Tensor, count: int) -> set[int]:
    """The axes of which nothing but the first of ``count`` equal blocks moved."""
    found = set()
    for axis, size in enumerate(moved.shape):
        others = [k for k in range(moved.ndim) if k != axis]
        places = moved.sum(dim=others).nonzero().flatten()
        if count > 1 and size % count == 0 and bool((places < size // count).all()):
            found.add(axis)
    return found


def _unplaced(record: Record) -> Iterator[tuple[Use, torch.Size]]:
    """Places of unknown layout, each tensor once, and the output at last."""
    seen: set[Spot] = set()
    for number, operation in record.operations.items():
        for k, (layout, spot) in enumerate(operation.given):
            shape = operation.shapes[k]
            if layout is not None or shape is None or spot is None or spot in seen:
                continue
            if not (operation.is_written and k == 0):
                seen.add(spot)
                yield Use(number, k), shape
    if record.output is None and record.output_shape is not None:
        yield OUTPUT, record.output_shape


def _always(values: Tensor) -> Exchange:
    return lambda _: values


def _time(use: Use) -> float:
    return math.inf if use.operation is None else float(use.operation)


def _width(alike: Tensor, channels: int, limit: Tensor) -> int:
    """The width of heads whose channels answer alike to equal values."""
    for width in range(channels, 1, -1):
        if channels % width == 0:
            heads = alike.unflatten(-1, (-1, width))
            if bool((heads - heads[..., :1]).abs().max() <= limit):
                return width
    return 1


def _values(record: Record) -> Iterator[tuple[Spot, Layout]]:
    """Tensors that may hold values, the earliest first; of views only what they are taken from."""
    for k, layout in enumerate(record.given):
        if layout is not None:
            yield Spot(GIVEN, k), layout
    for number, operation in record.operations.items():
        if operation.is_written:
            continue
        source = operation.given[0][0] if operation.given else None
        for k, layout in enumerate(operation.outs):
            if layout is None:
                continue
            if (
                operation.is_view
                and source is not None
                and source.shape.numel() == (layout.shape.numel())
            ):
                continue
            yield Spot(number, k), layout


def _responses(record: Record) -> Iterator[tuple[Use, Layout]]:
    """Places where a response may be read, the earliest first, and the output at last."""
    seen: dict[Spot, Use] = {}
    for number, operation in record.operations.items():
        for k, (layout, spot) in enumerate(operation.given):
            if layout is None or (operation.is_written and k == 0) or spot in seen:
                continue
            if spot is not None:
                seen[spot] = Use(number, k)
            yield Use(number, k), layout
    if record.output is not None:
        yield OUTPUT, record.output
