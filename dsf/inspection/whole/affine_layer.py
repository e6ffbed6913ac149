"""Whole layers as affine functions of their input, frozen at one run, and their maps."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import attention_map, respond
from dsf.evaluate.cache import whole_rows
from dsf.evaluate.maps import Selection
from dsf.evaluate.memory_plan import check_room
from dsf.inspection.whole.head_layout import as_tokens, as_values, width_of
from dsf.inspection.whole.stages import Centre, Chain, Filter, Scale, Stage, Tokens
from dsf.systems.composite import PANEL, Operator, RowSource, SystemSum, at_rest

TOGETHER = 64
"""The number of tokens whose contributions are computed in one batch."""


class AffineLayer(ABC):
    """A layer as an affine function of its input, ``linear(x) + remainder``.

    Its factors (gates, norms, decays, weights of a map) are frozen at their values on one run.
    """

    given: Float[Tensor, "sample time width"]
    output: Float[Tensor, "sample written output"] | None = None
    """What the layer put out in the run, where it was compared with that."""
    is_all: bool = True
    """Whether the module puts that out, or adds its input to it. Else it goes on with it."""

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
        return transposed(self.linear, self.given.shape, cotangent)

    def __call__(self, x: Tokens) -> Float[Tensor, "*batch written _"]:
        """The output for the input ``x``, with the factors of this run."""
        return self.linear(x) + self.remainder

    def contributions(
        self, rows: slice = slice(None)
    ) -> Float[Tensor, "sample written read output"]:
        """The vector that each input token adds to each output token.

        Their sum over ``read``, plus the remainder, is the layer's output.

        Raises:
            MapTooLarge: if they would take more than half of the free memory.
        """
        samples, steps, _ = self.given.shape
        written = len(range(*rows.indices(self.remainder.shape[1])))
        size = (samples, written, steps, self.remainder.shape[-1])
        check_room("contributions", size, self.given.dtype, self.given.device)
        parts = []
        for start in range(0, steps, TOGETHER):
            stop = min(start + TOGETHER, steps)
            alone = self.given.new_zeros(stop - start, *self.given.shape)
            for token in range(start, stop):
                alone[token - start, :, token] = self.given[:, token]
            parts.append(self.linear(alone)[:, :, rows])
        return rearrange(torch.cat(parts), "read sample written w -> sample written read w")

    def shares(self) -> Float[Tensor, "sample written read"]:
        """The signed share of each output token that comes from each input token.

        It is the inner product of the contribution with the output, over the output's squared
        length, so that a row sums to one minus the share of the remainder. A contribution that
        points against the output has a negative share. Rows of a zero output are nan.
        """
        output = self(self.given)
        along = output / output.square().sum(dim=-1, keepdim=True)
        blocks = []
        for start in range(0, output.shape[1], TOGETHER):
            rows = slice(start, start + TOGETHER)
            parts = self.contributions(rows)
            blocks.append(torch.einsum("s w r d, s w d -> s w r", parts, along[:, rows]))
        return torch.cat(blocks, dim=1)


@dataclass(frozen=True, eq=False, repr=False)
class WholeMixer(AffineLayer):
    """A mixer with the affine stages before and after it, frozen at one run.

    Attributes:
        given: the layer's input in this run.
        enter: the stages from the layer's input to the values of the mixer.
        mixer: the mixer with the coefficients of this run.
        leave: the stages from the response of the mixer to the layer's output.
        output: what the layer put out in the run, where it was compared with that.
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
        """The part of the output that is linear in ``x``, without the remainder."""
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
        weights = self._scan_map(chosen)
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
        """Whether the mixer has no first state."""
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
            moved = transposed(self.mixed, shape, moved)
        return self.enter.adjoint(moved)

    @cached_property
    def _reads_its_values(self) -> bool:
        """Whether the signal is the values as they are."""
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

    def _scan_map(self, rows: slice) -> Tensor:
        """The same for every channel."""
        map = self.mixing_map(rows)
        map = map.flatten(1, -3) if map.ndim > 3 else map.unsqueeze(1)
        return map.repeat_interleave(width_of(self.mixer.value) // map.shape[1], dim=1)


def transposed(linear: Callable[[Tensor], Tensor], shape: torch.Size, cotangent: Tensor) -> Tensor:
    """The adjoint of a function that is linear in a tensor of this shape."""
    with torch.inference_mode(False), torch.enable_grad():
        given = cotangent.new_zeros(shape, requires_grad=True)
        (moved,) = torch.autograd.grad(linear(given), given, cotangent)
    return moved


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
