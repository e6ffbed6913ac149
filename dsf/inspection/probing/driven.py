"""A module that is driven from its values to its response, by unit values.

Measures the map of a linear function of values by unit values, and checks that it is linear.

Where the channels of a head share one map and do not mix, one forward pass measures as many columns
as a head has channels, each token in a channel of its own: ceil(T / width) passes. Several
consecutive heads may read the values of one. Where every channel has its own map it takes T passes,
and where channels mix, one pass for every token and channel.

``Port``: a place inside a running module where a tensor is read or replaced.

A module as a function of its values, with everything else frozen at its value on one call.

``Repeated`` repeats a captured call with a float64 copy of the module. ``Driven`` is the function
from the values, written in at one port of that call, to the response read at another.

The function from values to response between two places of a recorded call.
"""

import inspect as signatures
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.inspection.capture.isolation import isolated
from dsf.inspection.capture.precision import in_double, in_float64
from dsf.inspection.capture.weights import double_copy
from dsf.inspection.causal.coordinates import InputAxis
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.inspection.probing.tape import Arranged, Exchanging, Layout, Record, Spot, Tape, Use

Function = Callable[[Tensor], Tensor]
ROUNDING = 1e-9
"""The largest relative difference taken for rounding; a smaller nonlinearity is not detected."""
MOST_PASSES = 20_000
"""The largest number of forward passes for one map."""
PAIRED = 3.0
"""A change of values by a step and by as many against it, to see whether a function is affine."""


@dataclass(frozen=True, eq=False)
class Linear:
    """An affine function of values: a map and the response to zero values.

    Attributes:
        weights: ``sample head time read``, or ``sample output input time read`` where channels mix.
        width: channels of a head; 1 where every channel has its own map, 0 where channels mix.
        rest: the response to zero values.
        superposition: the relative error of superposition; 0 for an affine function.
    """

    weights: Tensor
    width: int
    rest: Float[Tensor, "sample time output"]
    superposition: float

    def __call__(self, values: Float[Tensor, "sample read input"]) -> Tensor:
        """The response to ``values``."""
        return applied(self.weights, values, self.width) + self.rest

    @property
    def ahead(self) -> float:
        """The largest weight on a later token, relative to the largest of all."""
        return (self.weights.triu(1).abs().max() / self.weights.abs().max()).item()


def superposition(function: Function, like: Float[Tensor, "sample read input"]) -> float:
    """The relative error of superposition: 0 if ``function`` is affine, nan if it is not finite."""
    one, other = random_values(like, seed=0), random_values(like, seed=1)
    rest = function(torch.zeros_like(like))
    first, second = function(one) - rest, function(other) - rest
    both = function(2 * one - 3 * other) - rest
    scaled = function(50 * one) - rest
    size = first.abs().max() + second.abs().max()
    if size == 0:
        return 0.0
    apart = (both - 2 * first + 3 * second).abs().max() / 5
    return (torch.maximum(apart, (scaled - 50 * first).abs().max() / 50) / size).item()


def mixes(function: Function, like: Float[Tensor, "sample read input"]) -> bool:
    """Whether the first or the last token changes the response at any other token."""
    values, rest = random_values(like, seed=0), function(torch.zeros_like(like))
    if like.shape[1] == 1 or rest.shape[1] != like.shape[1]:
        return True
    for token, others in ((0, slice(1, None)), (-1, slice(0, -1))):
        alone = torch.zeros_like(values)
        alone[:, token] = values[:, token]
        if bool((function(alone) - rest)[:, others].any()):
            return True
    return False


def read_off(
    function: Function, like: Float[Tensor, "sample read input"], *, rounding: float = ROUNDING
) -> Linear:
    """The map of ``function``, measured by unit values and checked on random values.

    Args:
        rounding: the largest relative difference taken for rounding.

    Raises:
        UnreadableError: if it is not linear, or takes too many passes.
    """
    bent = superposition(function, like)
    if not bent <= rounding:
        raise UnreadableError(f"it is not linear in its values: superposition error {bent:.1e}")
    rest = function(torch.zeros_like(like))

    def part(values: Tensor) -> Tensor:
        return function(values) - rest

    control = random_values(like, seed=2)
    expected = part(control)
    for width in _widths(part, like, expected, rounding):
        weights = _by_units(part, like, width) if width else _by_impulses(part, like)
        apart = (applied(weights, control, width) - expected).abs().max()
        if apart <= rounding * expected.abs().max():
            return Linear(weights, width, rest, bent)
    raise UnreadableError("its response is not the sum of its responses to single values")


def applied(weights: Tensor, values: Tensor, width: int) -> Float[Tensor, "sample time output"]:
    """A map times values, for channels in heads of ``width``; 0 where they mix."""
    if width == 0:
        return torch.einsum("soitr,sri->sto", weights, values)
    return torch.einsum("shtr,shrc->sthc", weights, by_head(values, weights, width)).flatten(2)


def by_head(values: Tensor, weights: Tensor, width: int) -> Float[Tensor, "sample head read _"]:
    """The values in heads of ``width``, repeated for every head of the map that reads them."""
    heads = values.unflatten(-1, (-1, width)).transpose(1, 2)
    return heads.repeat_interleave(weights.shape[1] // heads.shape[1], dim=1)


def random_values(like: Tensor, *, seed: int) -> Tensor:
    """Random values as large as those of ``like``."""
    rng = torch.Generator().manual_seed(seed)
    size = like.std(correction=0).clamp(min=1e-3).item() if like.numel() else 1.0
    return size * torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def _widths(part: Function, like: Tensor, expected: Tensor, rounding: float) -> list[int]:
    """Candidate head widths, the likeliest first: a head maps equal channels to equal responses."""
    channels = like.shape[-1]
    if expected.shape[-1] % channels:
        return [0]
    alike = part(random_values(like[..., :1], seed=3).expand_as(like).contiguous())
    limit = rounding * alike.abs().max()
    for width in range(channels, 1, -1):
        if channels % width == 0:
            heads = alike.unflatten(-1, (-1, width))
            if (heads - heads[..., :1]).abs().max() <= limit:
                return [width, 1, 0]
    return [1, 0]


def _by_units(part: Function, like: Tensor, width: int) -> Float[Tensor, "sample head time read"]:
    columns = []
    steps, heads = like.shape[1], like.shape[-1] // width
    for start in range(0, steps, width):
        driven = torch.arange(start, min(start + width, steps), device=like.device)
        values = torch.zeros_like(like).unflatten(-1, (heads, width))
        values[:, driven, :, driven - start] = 1
        response = part(values.flatten(2)).unflatten(-1, (-1, width))
        columns.append(response[..., : len(driven)].transpose(1, 2))
    return torch.cat(columns, dim=-1)


def _by_impulses(part: Function, like: Tensor) -> Float[Tensor, "sample output input time read"]:
    _, steps, channels = like.shape
    if steps * channels > MOST_PASSES:
        raise UnreadableError(
            f"its channels mix, so that {steps * channels} forward passes would be needed, but at "
            f"most {MOST_PASSES} are made: name the projection of the values and the module behind "
            "the mixer (value=..., response=...)"
        )
    responses = []
    for channel in range(channels):
        for token in range(steps):
            values = torch.zeros_like(like)
            values[:, token, channel] = 1
            responses.append(part(values))
    stacked = torch.stack(responses).unflatten(0, (channels, steps))
    return stacked.permute(2, 4, 0, 3, 1)


Touch = Callable[[Tensor], None]
WHERE = re.compile(r"(?P<name>[\w.]*)(\((?P<argument>\w+)\))?")


def as_it_is(tensor: Tensor) -> Tensor:
    """The view of a tensor that needs none."""
    return tensor


@dataclass(frozen=True)
class Port:
    """The place in a module where its values enter or its response leaves.

    Attributes:
        where: ``v_proj`` for the output of a submodule, ``out_proj(input)`` for one of its
            arguments. Methods, and functions in the file that defines the module's class, are named
            in the same way, such as ``scan(value)``. ``""`` is the module's output and ``(x)`` its
            argument.
        view: a function from that tensor to a view of it as ``sample time channel`` or
            ``sample time head channel``.
    """

    where: str = ""
    view: Callable[[Tensor], Tensor] = as_it_is

    def __post_init__(self) -> None:
        if WHERE.fullmatch(self.where) is None:
            raise ValueError(
                f"Port: 'where' must be a name such as 'v_proj', or one with an argument such as "
                f"'out_proj(input)', but it is {self.where!r}."
            )

    @property
    def name(self) -> str:
        """The name of the submodule, method or function."""
        return self.where.partition("(")[0]

    @property
    def argument(self) -> str | None:
        """The name of its argument; None for its output."""
        return self.where.partition("(")[2].rstrip(")") or None


@contextmanager
def tapped(module: nn.Module, port: Port, touch: Touch) -> Iterator[None]:
    """Inside the ``with`` block, pass tensors at ``port`` to ``touch``, which may write to it.

    Raises:
        InspectionError: if the module has no such submodule, function or argument.
    """
    inner = dict(module.named_modules()).get(port.name)
    if inner is not None:
        handle = _hooked(inner, port, touch)
        try:
            yield
        finally:
            handle.remove()
        return
    owner, name = _function(module, port)
    plain, was_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, _wrapped(plain, port, touch))
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, plain)
        else:
            delattr(owner, name)


def _hooked(inner: nn.Module, port: Port, touch: Touch) -> Any:
    if port.argument is None:
        return inner.register_forward_hook(lambda *call: _touched(call[-1], port, touch))

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _exchanged(inner.forward, args, kwargs, port, touch)

    return inner.register_forward_pre_hook(before, with_kwargs=True)


def _wrapped(function: Callable[..., Any], port: Port, touch: Touch) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if port.argument is None:
            return _touched(function(*args, **kwargs), port, touch)
        args, kwargs = _exchanged(function, args, kwargs, port, touch)
        return function(*args, **kwargs)

    return call


def _exchanged(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    port: Port,
    touch: Touch,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, where that of ``port`` is replaced by a copy passed to ``touch``."""
    named = signatures.signature(function).bind_partial(*args, **kwargs)
    given = named.arguments.get(str(port.argument))
    if not isinstance(given, Tensor):
        raise InspectionError(
            f"Port '{port.where}': '{port.name}' was not given a tensor '{port.argument}'. Name "
            f"one that it was given: {', '.join(named.arguments) or 'there is none'}."
        )
    new = _touched(given, port, touch)
    for name, part in named.arguments.items():
        if part is given:  # under every name that it was given by
            named.arguments[name] = new
    return named.args, named.kwargs


def _touched(output: Any, port: Port, touch: Touch) -> Any:
    """A copy passed to ``touch``, so that the original stays unchanged; of several the first."""
    if isinstance(output, tuple | list):
        return type(output)((_touched(output[0], port, touch), *output[1:]))
    copy = output.clone()
    touch(port.view(copy))
    return copy


def _function(module: nn.Module, port: Port) -> tuple[Any, str]:
    """The object whose attribute the method or function is, and its name there."""
    *path, name = port.name.split(".")
    inner = dict(module.named_modules()).get(".".join(path))
    if inner is not None and callable(getattr(inner, name, None)):
        return inner, name
    for cls in type(module).__mro__:
        file = sys.modules.get(cls.__module__)
        if not path and callable(getattr(file, name, None)):
            return file, name
    raise InspectionError(
        f"Port '{port.where}': {type(module).__name__} has no submodule or method '{port.name}', "
        "and the file that defines its class has no such function. Name one of those."
    )


Values = Float[Tensor, "sample read width"]
Response = Float[Tensor, "sample time output"]


class Repeated:
    """A call of a module that can be repeated, by a copy of the module in float64."""

    def __init__(self, module: nn.Module, arguments: Mapping[str, Any]):
        self.module = double_copy(module)
        self.arguments = in_float64(dict(arguments))

    def __call__(self) -> Tensor:
        """The module's output; of several the first. Attributes that the call set are restored."""
        args, kwargs = as_called(self.module, self.arguments)
        with isolated(self.module), in_double():
            output = self.module(*args, **kwargs)
        while isinstance(output, tuple | list):
            output = output[0]
        return in_float64(output)


@dataclass(eq=False)
class Driven:
    """The function from values to response between two ports of a call.

    Where several tensors pass a port in one call, their channels are concatenated.

    Attributes:
        call: the call that is repeated.
        value, response: the ports where the values enter and the response leaves.
        passes: the number of forward passes so far.
    """

    call: Repeated
    value: Port
    response: Port
    passes: int = 0

    @property
    def names(self) -> tuple[str, str]:
        """The ports in words."""
        return self.value.where, self.response.where or "the output"

    def original(self) -> tuple[Tensor, Tensor, Tensor]:
        """The values, response and output of the original call.

        Raises:
            InspectionError: if no tensor passes one of the ports.
        """
        values: list[Tensor] = []
        response, output = self._run(
            lambda seen: values.append(in_float64(seen).clone().flatten(2))
        )
        return torch.cat(values, dim=2), response, output

    def __call__(self, values: Values) -> Response:
        """The response to the given values."""
        self.passes += 1
        return self._run(_writing(values))[0]

    def output(self, response: Response) -> Tensor:
        """The module's output when its response is replaced by the given one."""
        write = _writing(response)
        with tapped(self.call.module, self.response, lambda s: write(with_axes(s, self.response))):
            return self.call()

    def _run(self, touch: Touch) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        passed: list[bool] = []

        def enter(seen: Tensor) -> None:
            passed.append(True)
            touch(with_axes(seen, self.value))

        def leave(seen: Tensor) -> None:
            found.append(with_axes(in_float64(seen).clone(), self.response).flatten(2))

        with (
            tapped(self.call.module, self.value, enter),
            tapped(self.call.module, self.response, leave),
        ):
            output = self.call()
        missed = self.value if not passed else self.response if not found else None
        if missed is not None:
            raise InspectionError(
                f"Port '{missed.where}': no tensor passed it in this call. Name a submodule or "
                "function that the module calls."
            )
        return torch.cat(found, dim=2), output


def as_called(
    module: nn.Module, arguments: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Named arguments as ``forward`` takes them: by position where its signature requires it."""
    rest, args = dict(arguments), []
    kinds = signatures.signature(module.forward).parameters
    starred = any(kind.kind is kind.VAR_POSITIONAL for kind in kinds.values())
    for name, kind in kinds.items():
        if name not in rest:
            continue
        if kind.kind is kind.VAR_POSITIONAL:
            args += rest.pop(name)
        elif kind.kind is kind.POSITIONAL_ONLY or (
            starred and kind.kind is kind.POSITIONAL_OR_KEYWORD
        ):
            args.append(rest.pop(name))
    return tuple(args), rest


def _writing(whole: Tensor) -> Touch:
    """A function that writes the channels of ``whole``, in turn, into the tensors it is given."""
    place = 0

    def write(seen: Tensor) -> None:
        nonlocal place
        width = seen.shape[2:].numel()
        seen.copy_(whole[:, :, place : place + width].reshape(seen.shape))
        place += width

    return write


def with_axes(seen: Tensor, port: Port) -> Tensor:
    """``seen``, if it has the axes ``sample time channel`` or ``sample time head channel``.

    Raises:
        InspectionError: if it has another number of axes.
    """
    if seen.ndim not in (3, 4):
        raise InspectionError(
            f"Port '{port.where}': its view must be sample, time, channel, or sample, time, head, "
            f"channel, but it has the shape {tuple(seen.shape)}. Give Port a view=... that has "
            "these axes."
        )
    return seen


Exchange = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ports:
    """Where the values of a module enter and where its response leaves.

    Attributes:
        value: the tensor that holds the values.
        kept: places that are given the original values all the same.
        response: the place where the response is read.
        names: the two in words.
        layout: that of the response where only exchanged tokens showed it.
    """

    value: Spot
    kept: frozenset[Use]
    response: Use
    names: tuple[str, str] = ("", "")
    layout: Layout | None = None


class DrivenTape:
    """The function from values to response between two places of a call.

    Attributes:
        ports: the places.
        tape: the call.
    """

    def __init__(self, tape: Tape, record: Record, ports: Ports):
        value = record.layout_of(ports.value)
        response = ports.layout or record.place_of(ports.response)
        if value is None or response is None:
            raise UnreadableError("its values or its response have no tokens")
        self.tape, self.ports = tape, ports
        self._value, self._response = value, response
        self._before = tape.passes

    @property
    def passes(self) -> int:
        """The number of forward passes that measured the map."""
        return self.tape.passes - self._before

    def original(self) -> tuple[Tensor, Tensor, Tensor]:
        """The values, response and output of the original call."""
        seen: list[Tensor] = []

        def look(tensor: Tensor) -> Tensor:
            seen.append(self._value.arranged(tensor))
            return tensor

        response, output = self._run(look)
        return seen[0], response, output

    def __call__(self, values: Arranged) -> Float[Tensor, "sample written output"]:
        """The response to the given values."""
        return self._run(lambda old: self._value.laid_out(values, old))[0]

    def output(self, response: Arranged) -> Tensor:
        """The module's output when its response is replaced by the given one."""
        reader = {self.ports.response: lambda old: self._response.laid_out(response, old)}
        return self.tape.run(Exchanging(readers=reader))

    def watching(
        self,
        seen: list[Tensor],
        *,
        zero: bool = False,
        held: Exchange | None = None,
        values: list[Tensor] | None = None,
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Tensor]:
        """A function that calls the module and adds its response to ``seen``.

        Args:
            zero: whether the values are zero.
            held: what takes the place of the response, made from it.
            values: a list to which the values are added.
        """

        def read(old: Tensor) -> Tensor | None:
            now = self._response.arranged(old)
            seen.append(now.clone())
            return None if held is None else self._response.laid_out(held(now), old)

        def exchange(old: Tensor) -> Tensor:
            now = self._value.arranged(old)
            if values is not None:
                values.append(now.clone())
            return self._value.laid_out(torch.zeros_like(now), old) if zero else old

        def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            kept = self.ports.kept if zero else frozenset[Use]()
            mode = Exchanging(self.ports.value, exchange, kept, {self.ports.response: read})
            return mode.through(module, args, kwargs)

        return call

    @property
    def names(self) -> tuple[str, str]:
        """The places in words."""
        return self.ports.names

    @property
    def has_own_rows(self) -> bool:
        """Whether row i of the map is the token of column i."""
        return self._value.fits(self._response)

    @property
    def has_slots(self) -> bool:
        """Whether the values are of slots, which weights made of many tokens each."""
        return all(axis.source.kind == "slots" for axis in self._value.token_axes)

    def unmixed(self, rounding: float) -> list[InputAxis]:
        """The last axes of inputs, if they count as tokens and nothing is mixed along them.

        Products of queries and keys sum over such an axis, and no projection told that it holds
        channels.
        """
        value, axes = self._value, self._value.token_axes
        if not self.has_own_rows or len(axes) < 2:
            return []
        values, plain, _ = self.original()
        found = []
        for place, axis in enumerate(axes):
            beside = (one for one in (*axes, *value.sample_axes) if one.source is axis.source)
            is_last = axis.number == max(one.number for one in beside)
            if not is_last or axis.source.kind != "input" or axis.source.channels is not None:
                continue
            first = torch.tensor([at[place] == 0 for at in value.tokens])
            alone = values.clone()
            alone[:, first] += random_values(values, seed=0)[:, first]
            change = (self(alone) - plain)[:, ~first].abs().max()
            if bool(change <= rounding * plain.abs().max()):
                found.append(axis)
        return found

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Samples, tokens and channels of the values."""
        return self._value.sizes

    def own(self, cells: Sequence[Mapping[InputAxis, int | Tensor]]) -> Tensor:
        """Which tokens of the response, ``sample time``, belong to one of some cells."""
        return self._response.own(cells)

    def own_values(self, cells: Sequence[Mapping[InputAxis, int | Tensor]]) -> Tensor:
        """Which tokens of the values, ``sample time``, belong to one of some cells."""
        return self._value.own(cells)

    def _run(self, new: Exchange) -> tuple[Arranged, Tensor]:
        found: list[Tensor] = []

        def read(tensor: Tensor) -> None:
            found.append(self._response.arranged(tensor.clone()))

        readers = {self.ports.response: read}
        output = self.tape.run(Exchanging(self.ports.value, new, self.ports.kept, readers))
        if not found:
            raise UnreadableError("the code of the module takes another path with other values")
        return found[0], output
