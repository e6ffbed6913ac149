"""Building blocks of recurrent networks: activations, cell weights, and per-channel systems.

- ``Activation``, ``TANH``, ``RELU``: a function with its secant and its slope.
- ``CellWeights``, ``read_cell``: the weights of one layer of a torch LSTM, GRU or RNN.
- ``Gates``, ``run_lstm``: the gates of an LSTM layer along a sequence.
- ``with_one``, ``to_states``: the ports and the outputs of a layer along its trajectory.
- ``channel_systems``, ``running_maximum``, ``before``: helpers for gated recurrences.
- ``one_state``: whether the parts of a state with a running maximum are complete.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from dsf.runtime.shapes import ShapeError
from dsf.systems.system import System
from dsf.systems.transition import Dense, ScaledIdentity

SMALL = 1e-3


@dataclass(frozen=True)
class Activation:
    """A function of one number that is zero at zero.

    Attributes:
        value: the function itself.
        secant: slope of the secant through the origin, ``value(a) / a``, so that
            ``value(a) = secant(a) a``.
        slope: the derivative.
    """

    value: Callable[[Tensor], Tensor]
    secant: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def tanh_secant(a: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``tanh(a) / a``, and its limit 1 at zero; between 0 and 1."""
    small = a.abs() < SMALL
    away = torch.where(small, 1.0, a)
    square = torch.where(small, a, 0.0).square()
    return torch.where(small, 1 - square / 3 + 2 * square.square() / 15, away.tanh() / away)


def tanh_slope(a: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """``1 - tanh(a)^2``."""
    return 1 - a.tanh().square()


def positive(a: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """One where ``a`` is above zero, else zero."""
    return (a > 0).to(a.dtype)


TANH = Activation(value=torch.tanh, secant=tanh_secant, slope=tanh_slope)
RELU = Activation(value=torch.relu, secant=positive, slope=positive)


GATES: dict[type[torch.nn.RNNBase], int] = {torch.nn.LSTM: 4, torch.nn.GRU: 3, torch.nn.RNN: 1}


class CellWeights(NamedTuple):
    """Weights with the gates as their first axis, in torch's order; absent biases are zero."""

    input_weight: Float[Tensor, "gates channel input"]
    recurrent_weight: Float[Tensor, "gates channel output"]
    input_bias: Float[Tensor, "gates channel"]
    recurrent_bias: Float[Tensor, "gates channel"]
    projection: Float[Tensor, "output channel"] | None


def read_cell(
    module: torch.nn.Module, kind: type[torch.nn.RNNBase], *, layer: int, reverse: bool
) -> CellWeights:
    """The weights of ``layer``; with ``reverse``, of the direction from last token to first.

    Raises:
        TypeError: if the module is not of ``kind``.
        ValueError: if it has no such layer or direction.
    """
    name, gates = kind.__name__, GATES[kind]
    if not isinstance(module, kind):
        raise TypeError(
            f"{name}.from_module: 'module' must be a torch.nn.{name}, "
            f"but it is {type(module).__name__}."
        )
    if not 0 <= layer < module.num_layers:
        raise ValueError(
            f"{name}: there is no layer {layer}; the module has {module.num_layers} layers, "
            f"counted from 0."
        )
    if reverse and not module.bidirectional:
        raise ValueError(f"{name}: this module has one direction; leave 'reverse' out.")
    suffix = f"l{layer}{'_reverse' if reverse else ''}"
    input_weight = _by_gate(module, f"weight_ih_{suffix}", gates)
    biases = (f"bias_ih_{suffix}", f"bias_hh_{suffix}")
    zero = torch.zeros_like(input_weight[..., 0])
    input_bias, recurrent_bias = (
        _by_gate(module, bias, gates) if module.bias else zero for bias in biases
    )
    return CellWeights(
        input_weight,
        _by_gate(module, f"weight_hh_{suffix}", gates),
        input_bias,
        recurrent_bias,
        getattr(module, f"weight_hr_{suffix}") if module.proj_size else None,
    )


def _by_gate(module: torch.nn.RNNBase, name: str, gates: int) -> Tensor:
    weight: Tensor = getattr(module, name)
    return weight.unflatten(0, (gates, -1))


class Gates(NamedTuple):
    """Gates, candidate (before tanh) and cell of every token, and the cell and output before it.

    All of shape ``*batch time channel``; ``output_before`` is ``*batch time output``.
    """

    write: Tensor
    forget: Tensor
    candidate: Tensor
    read: Tensor
    cell: Tensor
    cell_before: Tensor
    output_before: Tensor


def run_lstm(
    weights: CellWeights,
    inputs: Float[Tensor, "*batch time input"],
    start: Float[Tensor, "*batch output"],
    start_cell: Float[Tensor, "*batch channel"],
) -> Gates:
    """Run an LSTM layer from the first token to the last.

    i, f, g, o = σ, σ, tanh, σ (W x_t + b + U h_{t-1} + b')
    c_t = f c_{t-1} + i g        h_t = o tanh(c_t), through the projection where there is one
    """
    bias = weights.input_bias + weights.recurrent_bias
    from_inputs = torch.einsum("gci,...ti->...tgc", weights.input_weight, inputs) + bias
    output, cell, tokens = start, start_cell, []
    for from_input in from_inputs.unbind(-3):
        from_output = torch.einsum("gco,...o->...gc", weights.recurrent_weight, output)
        write, forget, candidate, read = (from_input + from_output).unbind(-2)
        write, forget, read = write.sigmoid(), forget.sigmoid(), read.sigmoid()
        after = forget * cell + write * candidate.tanh()
        tokens.append(Gates(write, forget, candidate, read, after, cell, output))
        cell, output = after, read * after.tanh()
        if weights.projection is not None:
            output = output @ weights.projection.mT
    return Gates(*(torch.stack(part, dim=-2) for part in zip(*tokens, strict=True)))


def with_one(inputs: Float[Tensor, "*batch time input"]) -> Float[Tensor, "*batch time ports 1"]:
    """The signal ``[x_t; 1]``, whose last port is for the biases."""
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1).unsqueeze(-1)


def to_states(
    A: Float[Tensor, "*batch time state state"],
    B: Float[Tensor, "*batch time state input"],
    *,
    outputs: int,
    initial: Float[Tensor, "*batch state"] | None,
    runs_backward: bool,
) -> System:
    """The system whose outputs are its last ``outputs`` states."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)[-outputs:]
    C = identity.expand(*A.shape[:-2], -1, -1)
    first = None if initial is None else initial.unsqueeze(-1)
    return System(Dense(A), B, C, initial=first, runs_backward=runs_backward)


def channel_systems(
    decay: Inexact[Tensor, "*batch time channel"],
    write: Inexact[Tensor, "*batch time channel"],
    read: Inexact[Tensor, "*batch time channel"],
    *,
    initial: Inexact[Tensor, "*batch channel"] | None = None,
    runs_backward: bool = False,
) -> System:
    """``h = decay h + write u``, ``y = read h`` for every channel separately.

    The channel becomes the last batch axis: system batch ``*batch channel``, with one state each.
    Its signal is ``u.mT[..., None, None]``.
    """
    return System(
        A=ScaledIdentity(decay.mT, 1),
        B=write.mT[..., None, None],
        C=read.mT[..., None, None],
        initial=None if initial is None else initial[..., None, None],
        runs_backward=runs_backward,
    )


def running_maximum(
    log_decay: Float[Tensor, "*batch time width"],
    logit: Float[Tensor, "*batch time width"],
    *,
    start: float | Float[Tensor, "*batch width"],
) -> Float[Tensor, "*batch time width"]:
    """``m_t = max(m_{t-1} + log_decay_t, logit_t)`` from ``m_0 = start``.

    Computed one token after the other: by cumulative sums it would lose digits with every token.
    """
    largest, found = torch.zeros_like(logit[..., 0, :]) + start, []
    for fade, new in zip(log_decay.unbind(-2), logit.unbind(-2), strict=True):
        largest = torch.maximum(largest + fade, new)
        found.append(largest)
    return torch.stack(found, dim=-2)


def before(part: Tensor, *, axis: int, start: float | Tensor) -> Tensor:
    """``part`` delayed by one token along ``axis``, with ``start`` at the first token."""
    start = start.unsqueeze(axis) if isinstance(start, Tensor) else start
    first = torch.zeros_like(part.narrow(axis, 0, 1)) + start
    return torch.cat([first, part.narrow(axis, 0, part.shape[axis] - 1)], dim=axis)


def one_state(owner: str, *parts: Tensor | None) -> None:
    """Raise ShapeError if only some of ``start``, ``start_total`` and ``start_peak`` are there."""
    if any(part is None for part in parts) and not all(part is None for part in parts):
        raise ShapeError(
            f"{owner}: 'start', 'start_total' and 'start_peak' are one state, but only some of "
            f"them were given. Give all three, or none for a start from rest."
        )
