"""Whole layers as affine functions of their input, frozen at one run, and their maps.

A layer with hundreds of channels has hundreds of maps, and none of them is what the layer does.
What token j contributes to the output of token i, all channels together, is the vector

    sum over channels c of   map_c[i, j]  value_c[j]  gate_c[i]  W[:, c]

with the output gate (or norm) frozen at this run and the columns of the output projection W. Its
length is one number for every pair of tokens. The maps of all channels are never in memory at once.
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
from torch.nn.functional import pad

from dsf.evaluate import attention_map, final_state, respond, step
from dsf.evaluate.maps import Selection, span
from dsf.evaluate.memory_plan import block_bytes, check_room
from dsf.inspection.errors import InspectionError
from dsf.inspection.whole.stages import (
    Centre,
    Chain,
    Filter,
    Scale,
    Stage,
    Tokens,
    as_tokens,
    as_values,
    width_of,
)
from dsf.systems.composite import PANEL, Operator, SystemSum, at_rest, whole_rows
from dsf.systems.system import System
from dsf.systems.transition import Diagonal, ScaledIdentity, Transition

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
        """The part of the output that does not depend on the input; it comes from biases."""
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

    @property
    def starts_from_rest(self) -> bool:
        parts = self._system if isinstance(self._system, SystemSum) else (self._system,)
        return all(part.initial is None for part in parts)

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
                if not self.leave.keeps_tokens_apart:
                    raise TypeError(
                        "contribution_norms: behind a mixer only Project, Scale and Centre stages "
                        "act on every token alone, but the adapter gave a Filter."
                    )
                whole = vectors
                if len(place) < self.total * self._width:  # of some heads
                    whole = vectors.new_zeros(*vectors.shape[:-1], self.total * self._width)
                    whole[..., place] = vectors
                tokens = torch.tensor(rows, device=vectors.device)
                vectors = self.leave.at(tokens).linear(whole)
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
    # Only the groups so far have columns. The tokens of a group write into the last alone, and take
    # all others along.
    channels = signal.shape[-1]
    dtype = torch.promote_types(system.dtype, signal.dtype)
    size = (*system.batch, system.state_size, 0, channels)
    states = torch.zeros(size, dtype=dtype, device=system.device)
    for group, (start, stop) in enumerate(pairwise(bounds)):
        new = states.new_zeros(*system.batch, system.state_size, channels)
        if stop - start > 1:
            few = system.window(start, stop - 1)
            states = _carried(few.A, states.flatten(-2)).unflatten(-1, (group, channels))
            new = final_state(few, signal[..., start : stop - 1, :, :]).to(dtype)
        states = torch.cat([states, new.unsqueeze(-2)], dim=-2)
        own = signal.new_zeros(*system.batch, signal.shape[-2], group + 1, channels)
        own[..., group, :] = signal[..., stop - 1, :, :]
        row, after = step(system, stop - 1, states.flatten(-2), own.flatten(-2))
        states = after.to(dtype).unflatten(-1, (group + 1, channels))
        yield [stop - 1], row.unflatten(-1, (group + 1, channels)).unsqueeze(-4)


def _carried(A: Transition, states: Tensor) -> Tensor:
    """States taken through all tokens of a window."""
    if isinstance(A, Diagonal):
        return A.decay.prod(dim=-2).unsqueeze(-1) * states
    if isinstance(A, ScaledIdentity):
        return A.decay.prod(dim=-1)[..., None, None] * states
    for token in range(A.steps):
        states = (A.window(token, token + 1) @ states.unsqueeze(-3)).squeeze(-3)
    return states
