"""Whole layers as affine functions of their input, frozen at one run, and their maps.

A layer with hundreds of channels has hundreds of maps, and none of them is what the layer does.
What token j contributes to the output of token i, all channels together, is the vector

    sum over channels c of   map_c[i, j]  value_c[j]  gate_c[i]  W[:, c]

with the output gate (or norm) frozen at this run and the columns of the output projection W. Its
length is one number for every pair of tokens. The maps of all channels are never in memory at once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from dsf.evaluate import attention_map, final_state, respond, step
from dsf.evaluate.cache import whole_rows
from dsf.evaluate.maps import Selection
from dsf.evaluate.memory_plan import block_bytes, check_room
from dsf.inspection.whole.stages import (
    Centre,
    Chain,
    Filter,
    Project,
    Scale,
    Stage,
    Tokens,
    as_tokens,
    as_values,
    width_of,
)
from dsf.systems.algebra import select
from dsf.systems.composite import PANEL, Operator, RowSource, SystemSum, at_rest
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

    @abstractmethod
    def map(self, rows: Selection | None = None) -> Float[Tensor, "sample channel rows columns"]:
        """The map of every channel, or some of its rows."""

    @property
    def is_linear(self) -> bool:
        """Whether the remainder is known to be zero without computing it."""
        return False

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
        parts = []
        for start in range(0, steps, TOGETHER):
            stop = min(start + TOGETHER, steps)
            alone = self.given.new_zeros(stop - start, *self.given.shape)
            for token in range(start, stop):
                alone[token - start, :, token] = self.given[:, token]
            parts.append(self.linear(alone))
        return rearrange(torch.cat(parts), "read sample written w -> sample written read w")


@dataclass(frozen=True, eq=False, repr=False)
class WholeMixer(AffineLayer):
    """A mixer with the affine stages before and after it, frozen at one run.

    Attributes:
        given: the layer's input in this run.
        enter: the stages from the layer's input to the values of the mixer.
        mixer: the mixer with the coefficients of this run.
        leave: the stages from the response of the mixer to the layer's output.
        output: what the layer returned in the run, where it was compared with that.
        is_all: whether the module puts that out, or adds its input to it.
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
        if self.is_linear and self.output is not None:
            return torch.zeros_like(self.output)
        constant = respond(self._system, self._signal_of_zero_values)
        entered = self.mixed(self.enter(torch.zeros_like(self.given)))
        return self.leave(entered + as_tokens(constant, self.mixer.value))

    def map(self, rows: Selection | None = None) -> Float[Tensor, "sample channel rows columns"]:
        """The token map T of every channel, or some of its rows.

        It maps the output of the projection before the mixer (its bias included) to the input of
        the projection after it. Where the norm subtracts the mean over a head's channels, the mean
        is subtracted before the map is applied.

        Raises:
            MapTooLarge: if it would take more than half of the free memory.
        """
        chosen = slice(rows, rows + 1 or None) if isinstance(rows, int) else rows or slice(None)
        steps = self._system.steps
        written = torch.arange(steps, device=self.given.device)[chosen]
        size = (*self.given.shape[:1], width_of(self.mixer.value), len(written), steps)
        check_room("mixer_map", size, self.given.dtype, self.given.device)
        weights = self.mixing_map(chosen)  # the same for every channel of a head
        weights = weights.flatten(1, -3) if weights.ndim > 3 else weights.unsqueeze(1)
        weights = weights.repeat_interleave(size[1] // weights.shape[1], dim=1)
        for stage in reversed(self.enter.behind_projections().stages):
            weights = _before(weights, stage)
        for stage in self.leave.before_projection():
            weights = _factor(stage, weights, steps)[..., written, None] * weights
        return weights

    @cached_property
    def is_linear(self) -> bool:
        """Whether there are no biases, no constant inputs and no first states."""
        stages = self.enter.is_linear and self.leave.is_linear
        constant = self._signal_of_zero_values
        return stages and self.starts_from_rest and not bool(constant.any())

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
            moved = as_tokens(transposed_rows(rows, by_head), self.mixer.value)
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


def transposed_rows(
    rows: RowSource, cotangent: Float[Tensor, "*batch written channel"]
) -> Float[Tensor, "*batch read 1 channel"]:
    """The transposed map times ``cotangent``, a panel of rows at a time."""
    read, written = rows.shape[-1], rows.shape[-3]
    moved = cotangent.new_zeros(*cotangent.shape[:-2], read, cotangent.shape[-1])
    for start in range(0, written, PANEL):
        stop = min(start + PANEL, written)
        weights = rows.reach(start, stop)
        moved[..., : weights.shape[-1], :] += weights.mT @ cotangent[..., start:stop, :]
    return moved.unsqueeze(-2)


def _before(weights: Tensor, stage: Stage) -> Tensor:
    """The product of maps: first that of ``stage``, then ``weights``."""
    if not isinstance(stage, Filter):
        return weights * _factor(stage, weights, weights.shape[-1]).unsqueeze(-2)
    return stage.adjoint(weights.movedim(1, -1)).movedim(-1, 1)


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
"""Bytes that the maps of some channels, and the vectors of some rows, may take at a time."""

MOST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Contributions:
    """The values of a mixer, its maps, and what its layer does with the response.

    The memory in use is a few times ``ROOM``, or what one row of vectors takes if that is more.

    Attributes:
        leave: the stages from the response to the layer's output; None where these are not known,
            and then the contributions are to the response of the mixer.
        has_samples: whether the first batch axis counts samples.
        numbers: which heads or channels of the layer those of ``system`` are.
    """

    system: Operator
    signal: Shaped[Tensor, "*batch read input channel"]
    leave: Chain | None
    has_samples: bool
    numbers: Int[Tensor, " entries"]
    total: int

    def norms(self, rows: Selection | None = None) -> Float[Tensor, "sample rows columns"]:
        """The length of the vector that token j (column) contributes to token i (row)."""
        written = _chosen(rows, self.system.steps)
        size = (self._samples, len(written), self._reads)
        check_room("contribution_norms", size, torch.float64, self.system.device)
        found = self.signal.real.new_zeros(size)
        _, project, _ = _halves(self.leave)
        width = self._width if project is None else project.weight.shape[0]
        at_once = max(1, min(MOST_ROWS, ROOM // (8 * self._reads * width)))
        spans = pairwise([*range(0, len(written), at_once), len(written)])
        for sample, (first, last) in product(range(self._samples), spans):
            found[sample, first:last] = self._norms(sample, written[first:last], None)
        return found

    def norms_of_groups(self, most: int) -> Float[Tensor, "sample rows columns"]:
        """The same for neighbouring tokens taken together, in at most ``most`` groups.

        A column stands for what all tokens of its group contribute together, a row for the last
        token of its group. With as many groups as tokens these are the numbers of ``norms``. For
        a system that runs forward it takes one pass along the sequence and no map.
        """
        steps = self.system.steps
        if self._reads != steps:
            raise ValueError(
                f"contribution_norms: groups of tokens need as many keys (columns) as queries "
                f"(rows), but there are {self._reads} and {steps}. Leave 'groups' out."
            )
        bounds = group_bounds(steps, most)
        ends = [stop - 1 for stop in bounds[1:]]
        return torch.stack([self._norms(k, ends, bounds) for k in range(self._samples)])

    @property
    def _samples(self) -> int:
        return self.system.batch[0] if self.has_samples else 1

    @property
    def _reads(self) -> int:
        return getattr(self.system, "read_steps", self.system.steps)

    @property
    def _left(self) -> tuple[int, ...]:
        """The batch axes after that of samples, which count heads or channels."""
        return tuple(self.system.batch[1:] if self.has_samples else self.system.batch)

    @property
    def _width(self) -> int:
        """How many numbers one head or channel adds to the response of a token."""
        return self.signal.shape[-1] * self.system.output_size

    def _norms(
        self, sample: int, written: Sequence[int], bounds: Sequence[int] | None
    ) -> Float[Tensor, "rows columns"]:
        """The lengths for some rows; with ``bounds`` the columns of a group are taken together."""
        inner, project, outer = _halves(self.leave)
        together: Tensor | None = None
        for span in self._spans(sample, len(written), bounds):
            vectors, place = self._vectors(sample, span, written, bounds), self._place(span)
            for stage in inner:
                vectors = self._narrowed(stage, sample, written, place).linear(vectors)
            if project is None:
                added = vectors.abs().square().sum(dim=-1)
            else:
                added = Project(project.weight[:, place]).linear(vectors)
            together = added if together is None else together.add_(added)
        total = torch.as_tensor(together)
        if project is None:
            return total.sqrt()
        for stage in outer:
            total = self._narrowed(stage, sample, written, None).linear(total)
        return torch.linalg.vector_norm(total, dim=-1)

    def _spans(
        self, sample: int, rows: int, bounds: Sequence[int] | None
    ) -> Iterator[tuple[int, int]]:
        """Heads or channels, so many at a time that what they need takes no more than ``ROOM``."""
        count, one = math.prod(self._left), self._part(sample, (0, 1))
        columns = self._reads if bounds is None else len(bounds) - 1
        needed = rows * columns * self._width * 8
        if bounds is not None and isinstance(one, System) and not one.runs_backward:
            longest = max(stop - start for start, stop in pairwise(bounds))
            needed += 8 * one.state_size * (3 * columns * self.signal.shape[-1] + 4 * longest)
        else:
            needed += block_bytes(one, rows)
        inner, *_ = _halves(self.leave)
        centred = [each.heads for each in inner if isinstance(each, Centre)]
        unit = max(1, self.total // min(centred)) if centred else 1
        size = max(1, ROOM // needed // unit) * unit
        return pairwise([*range(0, count, size), count])

    def _part(self, sample: int, span: tuple[int, int]) -> Operator:
        return select(self.system, self._index(sample, span)) if self.system.batch else self.system

    def _index(self, sample: int, span: tuple[int, int]) -> tuple[slice | Tensor, ...]:
        """An index of the batch axes that leaves one of them: heads or channels of one sample."""
        places = torch.ones(self._left, device=self.system.device).nonzero()
        axes = places[slice(*span)].unbind(1)  # none where nothing is left
        if not self.has_samples:
            return axes
        return (torch.full_like(axes[0], sample), *axes) if axes else (slice(sample, sample + 1),)

    def _place(self, span: tuple[int, int]) -> Int[Tensor, " width"]:
        first = self.numbers[slice(*span)] * self._width
        place = (first.unsqueeze(-1) + torch.arange(self._width, device=first.device)).flatten()
        return place.to(self.system.device)

    def _narrowed(
        self, stage: Stage, sample: int, written: Sequence[int], place: Tensor | None
    ) -> Stage:
        """A stage for vectors of ``rows columns width``: some tokens, and some channels."""
        if isinstance(stage, Scale):
            width = self.total * self._width if place is not None else stage.factor.shape[-1]
            factor = stage.factor.expand(self._samples, self.system.steps, width)[sample]
            factor = factor[torch.tensor(written, device=factor.device)]
            return Scale((factor if place is None else factor[:, place]).unsqueeze(1))
        if isinstance(stage, Centre) and place is not None:
            return Centre(len(place) * stage.heads // (self.total * self._width))
        if isinstance(stage, Project):
            return stage
        raise TypeError(
            f"contribution_norms: behind a mixer only Project, Scale and Centre stages act on "
            f"every token alone, but the adapter gave a {type(stage).__name__}."
        )

    def _vectors(
        self,
        sample: int,
        span: tuple[int, int],
        written: Sequence[int],
        bounds: Sequence[int] | None,
    ) -> Float[Tensor, "rows columns width"]:
        """What every token, or group, adds to the response of some heads or channels."""
        part = self._part(sample, span)
        signal = self.signal[self._index(sample, span)] if self.system.batch else self.signal
        if bounds is not None and isinstance(part, System) and not part.runs_backward:
            answers = _by_group(part, signal, bounds)
        else:
            answers = _by_token(part, signal, written)
            if bounds is not None:
                spans = [answers[..., slice(*pair), :] for pair in pairwise(bounds)]
                answers = torch.stack([each.sum(dim=-2) for each in spans], dim=-2)
        answers = answers if part.batch else answers.unsqueeze(0)
        return answers.permute(1, 3, 0, 2, 4).flatten(-3)


def group_bounds(steps: int, most: int) -> list[int]:
    """Where at most ``most`` groups of nearly equal length begin, and the end of the last."""
    groups = min(most, steps)
    return [k * steps // groups for k in range(groups + 1)]


def _by_token(
    part: Operator, signal: Tensor, written: Sequence[int]
) -> Shaped[Tensor, "*entry rows output columns channel"]:
    """The map of every entry times its values, one column for every token."""
    follow = list(written) == list(range(written[0], written[-1] + 1))
    spans = [slice(written[0], written[-1] + 1)] if follow else written
    weights = torch.cat([attention_map(part, rows) for rows in spans], dim=-2)
    weights = weights.unflatten(-1, (-1, part.input_size)).unflatten(-3, (-1, part.output_size))
    return torch.einsum("... r o t m, ... t m p -> ... r o t p", weights, signal.to(weights.dtype))


def _by_group(
    system: System, signal: Tensor, bounds: Sequence[int]
) -> Shaped[Tensor, "*entry rows output columns channel"]:
    """The same for groups of tokens, whose states are carried along the sequence side by side."""
    # Before a group its column is zero. The tokens of the group write into that column alone, and
    # take all others along.
    groups, channels = len(bounds) - 1, signal.shape[-1]
    dtype = torch.promote_types(system.dtype, signal.dtype)
    size = (*system.batch, system.state_size, groups, channels)
    states, rows = torch.zeros(size, dtype=dtype, device=system.device), []
    for group, (start, stop) in enumerate(pairwise(bounds)):
        if stop - start > 1:
            few = system.window(start, stop - 1)
            states = _carried(few.A, states.flatten(-2)).unflatten(-1, (groups, channels))
            states[..., group, :] = final_state(few, signal[..., start : stop - 1, :, :])
        own = signal.new_zeros(*system.batch, signal.shape[-2], groups, channels)
        own[..., group, :] = signal[..., stop - 1, :, :]
        row, after = step(system, stop - 1, states.flatten(-2), own.flatten(-2))
        rows.append(row.unflatten(-1, (groups, channels)))
        states = after.to(dtype).unflatten(-1, (groups, channels))
    return torch.stack(rows, dim=-4)


def _carried(A: Transition, states: Tensor) -> Tensor:
    """States taken through all tokens of a window."""
    if isinstance(A, Diagonal):
        return A.decay.prod(dim=-2).unsqueeze(-1) * states
    if isinstance(A, ScaledIdentity):
        return A.decay.prod(dim=-1)[..., None, None] * states
    for token in range(A.steps):
        states = (A.window(token, token + 1) @ states.unsqueeze(-3)).squeeze(-3)
    return states


def _chosen(rows: Selection | None, steps: int) -> range:
    if isinstance(rows, int) and not -steps <= rows < steps:
        raise IndexError(
            f"contribution_norms: row {rows} is outside the sequence of {steps} tokens."
        )
    if isinstance(rows, int):
        return range(rows % steps, rows % steps + 1)
    written = range(steps)[rows or slice(None)]
    if not written:
        raise IndexError(f"contribution_norms: rows {rows} select no token of {steps}.")
    return written


def _halves(leave: Chain | None) -> tuple[list[Stage], Project | None, list[Stage]]:
    """The stages before the first projection, that projection, and those after it."""
    stages = list(leave or ())
    for at, stage in enumerate(stages):
        if isinstance(stage, Project):
            return stages[:at], stage, stages[at + 1 :]
    return stages, None, []
