"""Recurrences that are written as a loop over steps: their values are the candidates of all steps.

What one operation of the loop returns in every step is taken for the values of a mixer, one token
a step. Gates are made of earlier states, and these of the values; like queries and decays they are
held, as in the LSTM and the GRU that dsf knows: a nonlinear function of what is made of the values
is a factor, which keeps its numbers, and tanh(c) is (tanh(c) / c) c. A place to which a factor is
added, instead of multiplied, cannot be a response. What a step is given from earlier ones goes
through their responses alone, which is asked of the program itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from itertools import islice

import torch
from torch import Tensor

from dsf.inspection.causal import rules
from dsf.inspection.causal.coordinates import Coordinates
from dsf.inspection.probing.driven import FollowedCall, Loop
from dsf.inspection.probing.port_choice import Found, PortSearch
from dsf.inspection.recording import Operation, Recording, Value, values_in

MAX_FOLLOWED = 300_000
"""The most operations that are followed from values, those from all possible ones together."""
MOST_TRIED = 4
"""Of so many pairs of places it is asked how much of what a token moves they explain."""


class Kind(Enum):
    """How numbers depend on the values."""

    LINEAR = "linear, given factors"
    FACTOR = "not linear, held"
    BOTH = "a sum of both, or both in different places"


_MOVES = rules.MOVES | {"clone", "copy", "_to_copy", "contiguous", "expand", "neg", "sum", "mean"}
_SUMS = {"add", "sub", "rsub"}
_PRODUCTS = {"mul", "mm", "bmm", "matmul", "linear", "mv", "dot"}
_ODD = {"tanh", "sin", "asinh", "atan", "erf", "hardtanh"}
_ODD |= {"relu", "leaky_relu", "silu", "gelu", "elu", "hardswish", "celu", "selu", "mish"}
"""Functions of single numbers that are zero at zero; of such a one the secant is a factor."""
_TINY = 1e-6


def _sum(*kinds: Kind | None) -> Kind | None:
    found = {kind for kind in kinds if kind is not None}
    return Kind.BOTH if len(found) > 1 else next(iter(found), None)


def _product(*kinds: Kind | None) -> Kind | None:
    found = [kind for kind in kinds if kind is not None]
    if Kind.BOTH in found:
        return Kind.BOTH
    return Kind.LINEAR if found.count(Kind.LINEAR) == 1 else _sum(*found[:1]) and Kind.FACTOR


class _Program:
    """The program in which the outputs of all steps are parts of one tensor, ``values``.

    ``kinds`` says of every version of memory that is made of them how it depends on them.
    """

    def __init__(self, call: FollowedCall, parts: tuple[Value, ...]) -> None:
        self._plain, first = call.recording, parts[0]
        self._parts = {one.memory: k for k, one in enumerate(parts)}
        stacked = torch.stack([self._plain.tensor(part) for part in parts])
        memory = max(self._plain.numbers) + 1
        self.values = Value(memory, first.dtype, stacked.shape, stacked.stride())
        self.kinds, self.secants = {memory: Kind.LINEAR}, 0
        known = [self._plain.seen[part] for part in parts]
        nothing = torch.full(first.shape, -1.0)
        planes = {
            axis: torch.stack([one.planes.get(axis, nothing).expand(first.shape) for one in known])
            for axis in dict.fromkeys(axis for one in known for axis in one.planes)
        }
        self.recording = Recording(
            operations=[*map(self._linear, self._plain.operations)],
            given=[*self._plain.given, self.values],
            output=self._plain.output,
            calls=self._plain.calls,
            seen=self._plain.seen | {self.values: Coordinates(stacked.shape, planes)},
            numbers=self._plain.numbers | {memory: stacked.untyped_storage()},
            made_at=self._plain.made_at,
        )

    def _linear(self, one: Operation) -> Operation:
        """An operation that takes a part of all values, is held, multiplies, or runs as it did."""
        part = next((self._parts[at] for at in one.makes if at in self._parts), None)
        if part is not None:
            self.kinds |= dict.fromkeys(one.makes, Kind.LINEAR)
            return _made_by(one, torch.ops.aten.select_copy.int, self.values, 0, part)
        if not any(read.memory in self.kinds for read in one.reads) or not one.makes:
            return one
        kinds = [
            _sum(*(self.kinds.get(value.memory) for value in values_in(arg))) for arg in one.args
        ]
        name = one.name.strip("_") if one.name != "_to_copy" else one.name
        made = self._made(name, kinds)
        if name in _ODD and kinds == [Kind.LINEAR, *[None] * (len(kinds) - 1)] and not one.writes:
            self.secants += 1
            self.kinds |= dict.fromkeys(one.makes, Kind.LINEAR)
            given = self._plain.tensor(one.args[0])
            put_in = torch.where(given == 0, _TINY, given)
            secant = one.func(put_in, *one.args[1:], **one.kwargs) / put_in
            return _made_by(one, torch.mul, one.args[0], secant)
        self.kinds |= dict.fromkeys(one.makes, made)
        return replace(one, reads=()) if made is Kind.FACTOR else one

    @staticmethod
    def _made(name: str, kinds: list[Kind | None]) -> Kind:
        first, *others = kinds
        if name in _MOVES or name in _SUMS:
            made = _sum(*kinds)
        elif name in _PRODUCTS:
            made = _product(*kinds)
        elif name == "div":
            made = _product(first, others[0] and Kind.FACTOR)
        elif name == "lerp":
            made = _product(_sum(first, others[0]), others[1])
        elif name in {"addcmul", "addmm", "addbmm", "baddbmm"}:
            made = _sum(first, _product(*others[:2]))
        else:
            made = None
        return made or Kind.FACTOR


def _made_by(one: Operation, func: Callable[..., Tensor], *args: object) -> Operation:
    reads = tuple(values_in(args))
    return replace(one, func=func, args=args, kwargs={}, reads=reads, writes={})


def pairs_in(call: FollowedCall) -> Iterator[Found]:
    """The ports over the steps of a loop that may be those of a mixer, the likeliest first."""
    most = MAX_FOLLOWED // len(call.recording.operations)
    values = islice(_values(call), most)
    programs = [(name, parts, _Program(call, parts)) for name, parts in values]
    programs.sort(key=lambda one: one[-1].secants)
    yield from islice((pair for one in programs for pair in _pairs(call, *one)), MOST_TRIED)


def _values(call: FollowedCall) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """What operations of loops return in every step; then that of all tokens before a loop."""
    steps = list(loops(call))
    yield from steps
    for one in call.recording.operations if steps else ():
        if _is_whole(one) and call.layout(one.outs[0]) is not None:
            yield f"what '{one.name}' returns in {one.place}", one.outs


def _is_whole(one: Operation) -> bool:
    """Whether an operation returns one new tensor of numbers."""
    are_one = len(one.outs) == 1 and one.makes == (one.outs[0].memory,) and not one.writes
    return are_one and one.outs[0].dtype.is_floating_point


def loops(call: FollowedCall) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """What an operation of a loop returns in every step, the earliest first."""
    made: dict[tuple[str, ...], list[Value]] = {}
    for one in call.recording.operations:
        if _is_whole(one) and call.coordinates(one.outs[0]) is not None:
            key = one.place, one.name, one.path, str(tuple(one.outs[0].shape))
            made.setdefault(key, []).append(one.outs[0])
    for (place, name, *_), outs in made.items():
        steps = [call.tokens(out) for out in outs]
        count = len(set(steps)) if None not in steps else 0
        each = len(outs) // max(count, 1)
        if count > 1 and each * count == len(outs):
            for k in range(each):  # the same line may run it several times in a step
                if len(set(steps[k::each])) == count:
                    yield f"what '{name}' returns in every step in {place}", tuple(outs[k::each])


def _pairs(
    call: FollowedCall, name: str, parts: tuple[Value, ...], program: _Program
) -> Iterator[Found]:
    linear = program.recording
    inner = FollowedCall(linear, call.made_of, call.names, call.rounding, call.along)
    layout = inner.layout(program.values)
    if layout is None:
        return
    outputs = [one for one in values_in(linear.output) if one.dtype.is_floating_point]
    besides = [
        one
        for one in outputs[1:]
        if program.kinds.get(one.memory) is Kind.LINEAR and one.region != outputs[0].region
    ]
    for found in PortSearch(inner).linear_places(
        program.values, layout, lambda one: program.kinds.get(one.memory) is Kind.LINEAR
    ):
        before = tuple(_before(call.recording, program, found.ports.response))
        loop = Loop(parts, linear, before, tuple(besides))
        names = name, found.ports.names[1]
        layouts = {**found.ports.layouts, program.values: layout}
        yield replace(found, ports=replace(found.ports, names=names, layouts=layouts, loop=loop))


def _before(recording: Recording, program: _Program, response: Value) -> Iterator[Value]:
    """The tensors of single steps that a response is an arrangement of."""
    waiting, seen = [response.memory], set[int]()
    while waiting:
        memory = waiting.pop()
        made = recording.made_at.get(memory)
        if memory in seen or made is None:
            continue
        seen.add(memory)
        operation = recording.operations[made]
        for read in operation.reads:
            if program.kinds.get(read.memory) is not Kind.LINEAR:
                continue
            by = recording.made_at.get(read.memory)
            is_moved = by is not None and recording.operations[by].name.strip("_") in _MOVES
            if operation.name.strip("_") in _MOVES and not is_moved:
                yield read
            elif is_moved:
                waiting.append(read.memory)
