"""What a layer computes around its mixer, and whole layers as affine functions of their input.

Gates, norms and activations are frozen at their values on one run and become factors of a chain of
affine stages: an activation its secant ``act(p) / p``, a norm one over the root mean square or
deviation that it divided by. Every stage takes and returns ``sample time width``.

A layer with hundreds of channels has hundreds of maps, and none of them is what the layer does.
What token j contributes to the output of token i, all channels together, is the vector

    sum over channels c of   map_c[i, j]  value_c[j]  gate_c[i]  W[:, c]

with the columns of the output projection W. Its length is one number for every pair of tokens. The
maps of all channels are never in memory at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import linear, pad

from dsf.evaluate import attention_map, respond
from dsf.evaluate.maps import Selection, span
from dsf.evaluate.memory_plan import block_bytes, check_room
from dsf.evaluate.stepwise import applied
from dsf.evaluate.windows import fold
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.systems.composite import PANEL, Operator, at_rest, whole_rows
from dsf.systems.system import System

Tokens = Float[Tensor, "*batch time _"]


@dataclass(frozen=True, eq=False)
class Project:
    """A projection of every token: ``weight x + bias``.

    Attributes:
        ran: what a module with these weights was given and returned. It is not multiplied out once
            more for the same numbers.
    """

    weight: Float[Tensor, "output width"]
    bias: Float[Tensor, " output"] | None = None
    ran: tuple[Tokens, Tokens] | None = None

    def linear(self, x: Tokens) -> Tokens:
        return linear(x, self.weight)

    def adjoint(self, cotangent: Tokens) -> Tokens:
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        some = rows.any(dim=-1)  # a logit belongs to one token: nearly all rows of a head are zero
        moved = rows.new_zeros(len(rows), self.weight.shape[-1])
        moved[some] = rows[some] @ self.weight
        return moved.reshape(*cotangent.shape[:-1], -1)

    def __call__(self, x: Tokens) -> Tokens:
        if self.ran is not None and torch.equal(x, self.ran[0]):
            return self.ran[1]
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class Scale:
    """An elementwise factor and offset: ``factor x + offset``."""

    factor: Tensor
    offset: Tensor | None = None

    def linear(self, x: Tokens) -> Tokens:
        return self.factor * x

    adjoint = linear

    def __call__(self, x: Tokens) -> Tokens:
        return self.linear(x) if self.offset is None else self.linear(x) + self.offset

    def at(self, tokens: Int[Tensor, " some"]) -> "Scale":
        offset = None if self.offset is None else _of_tokens(self.offset, tokens)
        return Scale(_of_tokens(self.factor, tokens), offset)


@dataclass(frozen=True, eq=False)
class Filter:
    """A convolution of every channel along the tokens.

    Attributes:
        ahead: how many tokens after the current one the last tap multiplies; 0 if it is causal.
        earlier: the inputs of the tokens before the first, the latest last; zero when absent.
    """

    kernel: Float[Tensor, "width taps"]
    bias: Float[Tensor, " width"] | None = None
    ahead: int = 0
    earlier: Float[Tensor, "sample before width"] | None = None

    def linear(self, x: Tokens) -> Tokens:
        steps, taps = x.shape[-2], self.kernel.mT.contiguous()  # rows are quicker than columns
        by_lag = {len(taps) - 1 - place - self.ahead: tap for place, tap in enumerate(taps)}
        now = by_lag.pop(0, None)
        filtered = torch.zeros_like(x) if now is None else x * now
        for lag, tap in by_lag.items():
            if 0 < lag < steps:
                filtered[..., lag:, :].addcmul_(x[..., : steps - lag, :], tap)
            elif 0 < -lag < steps:
                filtered[..., : steps + lag, :].addcmul_(x[..., -lag:, :], tap)
        return filtered

    def adjoint(self, cotangent: Tokens) -> Tokens:
        """A token moves what it is filtered into: the same taps the other way."""
        return self.linear(cotangent.flip(-2)).flip(-2)

    def __call__(self, x: Tokens) -> Tokens:
        filtered = self.linear(x)
        if self.earlier is not None:
            count = self.earlier.shape[-2]
            both = torch.cat([self.earlier, torch.zeros_like(x)], dim=-2)
            filtered = filtered + self.linear(both)[..., count:, :]
        return filtered if self.bias is None else filtered + self.bias


@dataclass(frozen=True, eq=False)
class Centre:
    """Subtracts from every channel the mean over the channels of its head."""

    heads: int

    def linear(self, x: Tokens) -> Tokens:
        by_head = x.unflatten(-1, (self.heads, -1))
        return (by_head - by_head.mean(dim=-1, keepdim=True)).flatten(-2)

    adjoint = __call__ = linear


Stage = Project | Scale | Filter | Centre


@dataclass(frozen=True, eq=False)
class Chain:
    """Stages in the order in which they are applied."""

    stages: tuple[Stage, ...]

    def linear(self, x: Tokens) -> Tokens:
        """The linear part: the stages without their biases and offsets."""
        for stage in self.stages:
            x = stage.linear(x)
        return x

    def adjoint(self, cotangent: Tokens) -> Tokens:
        for stage in reversed(self.stages):
            cotangent = stage.adjoint(cotangent)
        return cotangent

    def __call__(self, x: Tokens) -> Tokens:
        for stage in self.stages:
            x = stage(x)
        return x

    def at(self, tokens: Int[Tensor, " some"]) -> "Chain":
        """The same for some tokens only, of stages that keep tokens apart."""
        stages = (stage.at(tokens) if isinstance(stage, Scale) else stage for stage in self.stages)
        return Chain(tuple(stages))

    def behind_projections(self) -> "Chain":
        """The stages after the last projection, where channels do not mix (but for ``Centre``)."""
        places = [k for k, stage in enumerate(self.stages) if isinstance(stage, Project)]
        return Chain(self.stages[places[-1] + 1 :] if places else self.stages)

    def before_projection(self) -> "Chain":
        places = (k for k, stage in enumerate(self.stages) if isinstance(stage, Project))
        return Chain(self.stages[: next(places, len(self.stages))])

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)


def _of_tokens(factor: Tensor, tokens: Int[Tensor, " some"]) -> Tensor:
    if factor.ndim < 2 or factor.shape[-2] == 1:
        return factor
    return factor[..., tokens, :]


def secant(act: Callable[[Tensor], Tensor], p: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``act(p) / p``: the factor that stands for the activation at ``p``; 0 where ``p`` is 0."""
    if bool(act(torch.zeros_like(p[..., :1])).any()):
        raise UnreadableError(
            "the activation of its values is not zero at zero, so that no factor can stand for it"
        )
    return torch.where(p == 0, torch.zeros_like(p), act(p) / torch.where(p == 0, 1, p))


def as_tokens(
    response: Shaped[Tensor, "*batch time 1 channel"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "sample time width"]:
    """A mixer's response with heads and channels in one axis, as the module has it."""
    if response.ndim == value.ndim + 1:  # the channels share their coefficients
        response = response.squeeze(-2)
        return response if value.ndim == 3 else rearrange(response, "s h t c -> s t (h c)")
    response = response.squeeze((-2, -1))  # every channel is a system of its own
    return response.mT if value.ndim == 3 else rearrange(response, "s h c t -> s t (h c)")


def as_values(
    x: Shaped[Tensor, "sample time width"], value: Shaped[Tensor, "*axes"]
) -> Shaped[Tensor, "*axes"]:
    return x if value.ndim == 3 else rearrange(x, "s t (h c) -> s h t c", h=value.shape[1])


def width_of(value: Shaped[Tensor, "*axes"]) -> int:
    """The number of channels of all heads together."""
    return value.shape[-1] if value.ndim == 3 else value.shape[1] * value.shape[-1]


TOGETHER = 64
"""The number of tokens whose contributions are computed in one batch."""


class AffineLayer(ABC):
    """A layer as an affine function of its input, ``linear(x) + remainder``.

    Its factors (gates, norms, decays, weights of a map) are frozen at their values on one run.
    """

    given: Float[Tensor, "sample time width"]
    output: Float[Tensor, "sample written output"] | None = None
    """What the layer returned in the run, where it was compared with that."""
    is_all: bool = True
    """Whether the module puts that out, or adds its input to it. Else it continues with it."""

    @abstractmethod
    def linear(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """The part of the output that is linear in ``x``, without the remainder."""

    @cached_property
    @abstractmethod
    def remainder(self) -> Float[Tensor, "sample written output"]:
        """The part of the output that does not depend on the input."""

    def map(
        self,
        rows: Selection | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "sample channel rows columns"]:
        """The map of every channel, or some of its rows; refused where channels mix."""
        raise InspectionError(
            "mixer_map: the channels of this layer feed back into each other, so that none has a "
            "map of its own from the layer's input. layer.whole.contributions() gives the vector "
            "that every token adds, and layer.map() the map of the mixer."
        )

    def adjoint(
        self, cotangent: Float[Tensor, "sample written output"]
    ) -> Float[Tensor, "sample time width"]:
        """By how much the input moves the inner product of ``cotangent`` with the output."""
        return transposed(self.linear, [self.given.shape], cotangent)[0]

    def __call__(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """The output for the input ``x``, with the factors of this run."""
        return self.linear(x) + self.remainder

    def contributions(self) -> Float[Tensor, "sample written read output"]:
        """The vector that each input token adds to each output token.

        Their sum over ``read``, plus the remainder, is the layer's output.

        Raises:
            MapTooLarge: if they would take more than half of the free memory.
        """
        samples, steps, _ = self.given.shape
        size = (samples, self.remainder.shape[1], steps, self.remainder.shape[-1])
        check_room("contributions", size, self.given.dtype, self.given.device)
        parts = torch.cat([self.linear(alone) for alone in single_tokens(self.given)])
        return rearrange(parts, "read sample written w -> sample written read w")


def single_tokens(
    given: Float[Tensor, "sample time *width"],
) -> Iterator[Float[Tensor, "token sample time *width"]]:
    """An input with all tokens but one set to zero, for some tokens at a time."""
    for first in range(0, given.shape[1], TOGETHER):
        tokens = range(first, min(first + TOGETHER, given.shape[1]))
        alone = given.new_zeros(len(tokens), *given.shape)
        for place, token in enumerate(tokens):
            alone[place, :, token] = given[:, token]
        yield alone


@dataclass(frozen=True, eq=False, repr=False)
class WholeMixer(AffineLayer):
    """A mixer with the affine stages before and after it, frozen at one run.

    Attributes:
        given: the layer's input in this run.
        enter, leave: the stages from this input to the values of the mixer, and from its response
            to the layer's output.
        leaving: the output as a function of the response, with the factors that this makes (those
            of a norm); None where ``leave`` is all that is known.
    """

    given: Float[Tensor, "sample time width"]
    enter: Chain
    mixer: Any
    leave: Chain
    output: Float[Tensor, "sample written output"] | None = None
    is_all: bool = True
    leaving: Callable[[Tensor], Tensor] | None = None

    def linear(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        return self.leave.linear(self.mixed(self.enter.linear(x)))

    @cached_property
    def remainder(self) -> Float[Tensor, "sample written output"]:
        value = as_values(self.enter(torch.zeros_like(self.given)), self.mixer.value)
        response = respond(self._system, replace(self.mixer, value=value).signal())
        return self.leave(as_tokens(response, self.mixer.value))

    def map(self, rows: Selection | None = None) -> Float[Tensor, "sample channel rows columns"]:
        """The token map T of every channel, or some of its rows.

        It maps the output of the projection before the mixer (its bias included) to the input of
        the projection after it. Where the norm subtracts the mean over a head's channels, the mean
        is subtracted before the map is applied.

        Raises:
            MapTooLarge: if it would take more than half of the free memory.
        """
        steps = self._system.steps
        chosen = slice(*span(rows, steps, "mixer_map"))
        written = torch.arange(steps, device=self.given.device)[chosen]
        size = (*self.given.shape[:1], width_of(self.mixer.value), len(written), steps)
        check_room("mixer_map", size, self.given.dtype, self.given.device)
        weights = self.mixing_map(chosen)  # the same for every channel of a head
        weights = weights.flatten(1, -3) if weights.ndim > 3 else weights.unsqueeze(1)
        weights = weights.repeat_interleave(size[1] // weights.shape[1], dim=1)
        for stage in reversed(self.enter.behind_projections().stages):
            if isinstance(stage, Filter):
                weights = stage.adjoint(weights.movedim(1, -1)).movedim(-1, 1)
            else:
                weights = _factor(stage, weights, steps).unsqueeze(-2) * weights
        for stage in self.leave.before_projection():
            weights = _factor(stage, weights, steps)[..., written, None] * weights
        return weights

    def adjoint(
        self, cotangent: Float[Tensor, "sample written output"]
    ) -> Float[Tensor, "sample time width"]:
        """By how much the input moves the inner product of ``cotangent`` with the output.

        Rows of a map that are computed from scores are taken a panel at a time.
        """
        moved = self.leave.adjoint(cotangent)
        shape = torch.Size((*self.given.shape[:-1], width_of(self.mixer.value)))
        rows = whole_rows(self._system)
        if rows is not None and self._reads_its_values:
            by_head = as_values(moved, self.mixer.value)
            read, written = rows.shape[-1], rows.shape[-3]
            moved = by_head.new_zeros(*by_head.shape[:-2], read, by_head.shape[-1])
            for start in range(0, written, PANEL):
                stop = min(start + PANEL, written)
                weights = rows.reach(start, stop)
                moved[..., : weights.shape[-1], :] += weights.mT @ by_head[..., start:stop, :]
            moved = as_tokens(moved.unsqueeze(-2), self.mixer.value)
        else:
            (moved,) = transposed(self.mixed, [shape], moved)
        return self.enter.adjoint(moved)

    @cached_property
    def _reads_its_values(self) -> bool:
        ones = replace(self.mixer, value=torch.ones_like(self.mixer.value))
        tried = ((mixer.signal(), mixer.value.unsqueeze(-2)) for mixer in (self.mixer, ones))
        return all(torch.equal(signal, value) for signal, value in tried)

    @cached_property
    def _system(self) -> Operator:
        return self.mixer.system()

    @cached_property
    def _signal_of_zero_values(self) -> Tensor:
        signal: Tensor = replace(self.mixer, value=torch.zeros_like(self.mixer.value)).signal()
        # Nearly always zero, which need not be held for every token.
        return signal if bool(signal.any()) else signal.new_zeros(()).expand(signal.shape)

    def mixed(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """The mixer's response to ``x`` alone, without its constant inputs and its first state.

        Axes before ``sample`` are computed as further columns, which share the coefficients.
        """
        front, stacked = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        signals = [
            replace(self.mixer, value=as_values(each, self.mixer.value)).signal()
            - self._signal_of_zero_values
            for each in stacked
        ]
        together = respond(at_rest(self._system), torch.cat(signals, dim=-1))
        responses = together.chunk(len(signals), dim=-1)
        mixed = torch.stack([as_tokens(each, self.mixer.value) for each in responses])
        return mixed.reshape(*front, *mixed.shape[1:])

    @property
    def map_shape(self) -> tuple[torch.Size, int, int]:
        """Batch axes, rows and columns of :meth:`mixing_map`."""
        return torch.Size(self._system.batch), self.remainder.shape[1], self._system.steps

    def mixing_map(self, rows: Selection | None = None) -> Float[Tensor, "*batch written read"]:
        """The mixer's own map, or some of its rows, without the columns of constant inputs."""
        ports = self.mixer.signal().shape[-2]
        return attention_map(self._system, rows).unflatten(-1, (-1, ports))[..., 0]


def transposed(
    linear: Callable[..., Tensor], shapes: Sequence[torch.Size], cotangent: Tensor
) -> tuple[Tensor, ...]:
    """The adjoint of a function that is linear in tensors of these shapes."""
    with torch.inference_mode(False), torch.enable_grad():
        given = [cotangent.new_zeros(shape, requires_grad=True) for shape in shapes]
        moved = torch.autograd.grad(linear(*given), given, cotangent, allow_unused=True)
    pairs = zip(given, moved, strict=True)
    return tuple(torch.zeros_like(part) if by is None else by for part, by in pairs)


def _factor(
    stage: Stage, weights: Float[Tensor, "sample channel rows columns"], steps: int
) -> Float[Tensor, "sample channel time"]:
    if isinstance(stage, Centre):  # commutes with a map that all channels of a head share
        return weights.new_ones(weights.shape[0], weights.shape[1], steps)
    if not isinstance(stage, Scale):
        raise TypeError(
            "mixer_map: between the projections only Scale, Filter and Centre stages have a map "
            f"for each channel, but the adapter gave a {type(stage).__name__}."
        )
    return stage.factor.expand(weights.shape[0], steps, weights.shape[1]).mT


ROOM = 2**26
"""Bytes that the maps of some rows, or their vectors, may take at a time."""

MOST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Contributions:
    """The values of a mixer, its map, and what its layer does with the response.

    Contributions are to the response of the mixer where ``leave`` is not known. ``numbers`` says
    which of the ``total`` heads or channels of the layer those of ``system`` are.
    """

    system: Operator
    signal: Shaped[Tensor, "*batch read input channel"]
    leave: Chain | None
    has_samples: bool
    numbers: Int[Tensor, " entries"]
    total: int

    def norms(
        self, rows: Selection | None = None, groups: int | None = None
    ) -> Float[Tensor, "sample rows columns"]:
        """The length of the vector that token j (column) contributes to token i (row).

        With ``groups`` for neighbouring tokens taken together, in at most so many groups: a column
        is what all tokens of its group contribute together, a row the last token of its group. For
        a system that runs forward that takes one pass along the sequence and no map.
        """
        steps = self.system.steps
        if groups is None:
            return self._joined(
                self._by_token(range(*span(rows, steps, "contribution_norms")), None)
            )
        if self._reads != steps:
            raise ValueError(
                f"contribution_norms: groups of tokens need as many keys (columns) as queries "
                f"(rows), but there are {self._reads} and {steps}. Leave 'groups' out."
            )
        bounds = group_bounds(steps, groups)
        if isinstance(self.system, System) and not self.system.runs_backward:
            return self._joined(_by_group(self.system, self.signal, bounds))
        return self._joined(self._by_token([stop - 1 for stop in bounds[1:]], bounds))

    @property
    def _samples(self) -> int:
        return self.system.batch[0] if self.has_samples else 1

    @property
    def _reads(self) -> int:
        return getattr(self.system, "read_steps", self.system.steps)

    @property
    def _width(self) -> int:
        """How many numbers one head or channel adds to the response of a token."""
        return self.signal.shape[-1] * self.system.output_size

    def _by_token(
        self, written: Sequence[int], bounds: Sequence[int] | None
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Some rows at a time, and the map times the values of every token or group there."""
        system, numbers = self.system, self._samples * self._reads * self.total * self._width
        size = self._samples, len(written), self._reads
        check_room("contribution_norms", size, torch.float64, system.device)
        at_once = min(MOST_ROWS, ROOM // max(8 * numbers, block_bytes(system, 1))) or 1
        for first in range(0, len(written), at_once):
            rows = written[first : first + at_once]
            follow = list(rows) == list(range(rows[0], rows[-1] + 1))
            spans = [slice(rows[0], rows[-1] + 1)] if follow else rows
            weights = torch.cat([attention_map(system, few) for few in spans], dim=-2)
            weights = weights.unflatten(-1, (-1, system.input_size))
            weights = weights.unflatten(-3, (-1, system.output_size))
            signal = self.signal.to(weights.dtype)
            answers = torch.einsum("... r o t m, ... t m p -> ... r o t p", weights, signal)
            if bounds is not None:
                groups = [answers[..., slice(*pair), :].sum(dim=-2) for pair in pairwise(bounds)]
                answers = torch.stack(groups, dim=-2)
            yield rows, answers

    def _joined(
        self, parts: Iterable[tuple[Sequence[int], Tensor]]
    ) -> Float[Tensor, "sample rows columns"]:
        """The lengths behind the layer, from ``*batch rows output columns channel``."""
        found = []
        place = (self.numbers[:, None] * self._width + torch.arange(self._width)).flatten()
        for rows, answers in parts:
            by_sample = answers.reshape(self._samples, -1, *answers.shape[-4:])
            vectors = by_sample.permute(4, 0, 2, 1, 3, 5).flatten(3)  # column sample row width
            if self.leave is not None:
                if any(isinstance(stage, Filter) for stage in self.leave):
                    raise TypeError(
                        "contribution_norms: behind a mixer only Project, Scale and Centre stages "
                        "act on every token alone, but the adapter gave a Filter."
                    )
                whole = vectors
                if len(place) < self.total * self._width:  # of some heads
                    whole = vectors.new_zeros(*vectors.shape[:-1], self.total * self._width)
                    whole[..., place] = vectors
                tokens = torch.tensor(rows, device=vectors.device)
                # A product of strided rows takes ten times as long.
                vectors = self.leave.at(tokens).linear(whole.contiguous())
            found.append(torch.linalg.vector_norm(vectors, dim=-1).movedim(0, -1))
        columns = max(norms.shape[-1] for norms in found)
        return torch.cat([pad(norms, (0, columns - norms.shape[-1])) for norms in found], dim=1)


def group_bounds(steps: int, most: int) -> list[int]:
    """Where at most ``most`` groups of nearly equal length begin, and the end of the last."""
    groups = min(most, steps)
    return [k * steps // groups for k in range(groups + 1)]


def _by_group(
    system: System, signal: Tensor, bounds: Sequence[int]
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """The same for groups of tokens, whose states are carried along the sequence side by side."""
    dtype, channels = torch.promote_types(system.dtype, signal.dtype), signal.shape[-1]
    size = (*system.batch, system.state_size, len(bounds) - 1, channels)
    states, signal = torch.zeros(size, dtype=dtype, device=system.device), signal.to(dtype)
    for group, (start, stop) in enumerate(pairwise(bounds)):
        last, so_far = system.window(stop - 1, stop, dtype=dtype), states[..., : group + 1, :]
        read_at = stop - 1 if system.reads_before_update else stop
        _take(system, signal, start, read_at, so_far)
        row = applied(last.C, so_far.flatten(-2).unsqueeze(-3)).squeeze(-3)
        row = row.unflatten(-1, so_far.shape[-2:])
        own = signal[..., stop - 1 : stop, :, :]
        row[..., group, :] += applied(last.feedthrough, own).squeeze(-3)
        _take(system, signal, read_at, stop, so_far)
        row = row.real if system.takes_real_part else row
        yield [stop - 1], row.unsqueeze(-4)


def _take(system: System, signal: Tensor, start: int, stop: int, states: Tensor) -> None:
    """Take states through some tokens in place; what these write is added to the last column."""
    for first in range(start, stop, TOGETHER):
        few = system.window(first, min(first + TOGETHER, stop), dtype=states.dtype)
        given = signal[..., first : first + few.steps, :, :]
        if (decays := few.A.diagonal()) is None:
            panel = fold(few, 0, few.steps)
            states.copy_(panel.carried(states.flatten(-2)).unflatten(-1, states.shape[-2:]))
            states[..., -1, :] += panel.write @ given.flatten(-3, -2)
            continue
        drives = applied(few.B, given).unbind(dim=-3)
        # A column lies scattered in memory, where products in place take twice as long.
        last = states[..., -1, :].clone(memory_format=torch.contiguous_format)
        for decay, drive in zip(decays.unsqueeze(-1).unbind(dim=-3), drives, strict=True):
            last.mul_(decay).add_(drive)
        states *= decays.prod(dim=-2)[..., None, None]
        states[..., -1, :] = last
