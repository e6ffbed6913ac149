"""Building blocks of recurrent networks: activations, cell weights, and per-channel systems."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def read_cell(
    module: torch.nn.Module, kind: type[torch.nn.RNNBase], *, layer: int, reverse: bool
) -> dict[str, Tensor]:
    """The weights of ``layer``; with ``reverse``, of the direction from last token to first.

    By field of the mixer, the gates as the first axis in torch's order; absent biases are zero.

    Raises:
        TypeError: if the module is not of ``kind``.
        ValueError: if it has no such layer or direction.
    """
    name = kind.__name__
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
    named = {"input_weight": "weight_ih", "recurrent_weight": "weight_hh"}
    if module.bias:
        named |= {"input_bias": "bias_ih", "recurrent_bias": "bias_hh"}
    found = {
        name: getattr(module, f"{part}_{suffix}").unflatten(0, (-1, module.hidden_size))
        for name, part in named.items()
    }
    if not module.bias:
        zero = torch.zeros_like(found["input_weight"][..., 0])
        found |= {"input_bias": zero, "recurrent_bias": zero}
    if module.proj_size:
        found["projection"] = getattr(module, f"weight_hr_{suffix}")
    return found


def with_one(inputs: Float[Tensor, "*batch time input"]) -> Float[Tensor, "*batch time ports 1"]:
    """The signal ``[x_t; 1]``, whose last port is for the biases."""
    return torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1).unsqueeze(-1)


def to_states(
    A: Float[Tensor, "*batch time state state"],
    B: Float[Tensor, "*batch time state input"],
    cell: Any,
    *,
    initial: Float[Tensor, "*batch state"] | None = None,
) -> System:
    """The system whose outputs are its last states, as many as the ``cell`` has outputs."""
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    C = identity[-cell.recurrent_weight.shape[-1] :].expand(*A.shape[:-2], -1, -1)
    first = None if initial is None else initial.unsqueeze(-1)
    return System(Dense(A), B, C, initial=first, runs_backward=cell.runs_backward)


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
