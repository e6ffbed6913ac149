"""Building blocks of recurrent networks and of discretised state spaces."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Complex, Float, Inexact, Shaped
from torch import Tensor

from dsf.mixers.base import Mixer, mixer, normal
from dsf.runtime.shapes import ShapeError, agree, has_axes
from dsf.systems.system import System
from dsf.systems.transition import Dense, Diagonal, ScaledIdentity

SMALL = 1e-3
Kind = TypeVar("Kind", bound="Cell")


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


@mixer
class Cell(Mixer):
    """One layer and direction of a recurrent module of torch, quasi-linear along its trajectory."""

    inputs: Float[Tensor, "*batch time input"]
    runs_backward: bool = False

    kind: ClassVar[Any]  # the class of the module

    @classmethod
    def from_module(
        cls: type[Kind],
        module: Any,
        inputs: Float[Tensor, "*batch time input"],
        initial: Any = None,
        *,
        layer: int = 0,
        reverse: bool = False,
    ) -> Kind:
        """One layer of ``module`` on the ``inputs`` of that layer, batch first in any case.

        Args:
            module: a ``torch.nn.RNN``, ``GRU`` or ``LSTM``; absent biases are zero.
            inputs: what enters that layer.
            initial: h_0 of that layer and direction, for an LSTM ``(h_0, c_0)``.
            layer: which layer, counted from 0.
            reverse: the direction from the last token to the first.
        """
        name = cls.kind.__name__
        if not isinstance(module, cls.kind):
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
        found: dict[str, Any] = {  # gates first, in torch's order
            name: getattr(module, f"{part}_{suffix}").unflatten(0, (-1, module.hidden_size))
            for name, part in named.items()
        }
        if not module.bias:
            zero = torch.zeros_like(found["input_weight"][..., 0])
            found |= {"input_bias": zero, "recurrent_bias": zero}
        if isinstance(module, torch.nn.RNN):  # which has no gates
            found = {name: part[0] for name, part in found.items()}
            found["activation"] = TANH if module.nonlinearity == "tanh" else RELU
        if module.proj_size:
            found["projection"] = getattr(module, f"weight_hr_{suffix}")
        starts = initial if isinstance(initial, tuple | list) else (initial,)
        found |= dict(zip(("start", "start_cell"), starts, strict=False))
        return cls(inputs=inputs, runs_backward=reverse, **found)

    @classmethod
    def draw(cls: type[Kind], rng: torch.Generator, *, steps: int) -> Kind:
        module = cls.kind(3, 4, dtype=torch.float64, device="meta").to_empty(device="cpu")
        for weight in module.requires_grad_(False).parameters():
            weight.copy_(0.6 * normal(rng, *weight.shape))
        inputs, names = normal(rng, 2, steps, 3), {field.name for field in fields(cls)}
        starts = [normal(rng, 2, 4) for name in ("start", "start_cell") if name in names]
        return cls.from_module(module, inputs, starts)


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
    read: Inexact[Tensor, "*batch time channel"] | None = None,
    *,
    initial: Inexact[Tensor, "*batch channel"] | None = None,
    runs_backward: bool = False,
) -> System:
    """``h = decay h + write u``, ``y = read h``, or h itself, for every channel separately.

    The channel becomes the last batch axis: system batch ``*batch channel``, with one state each.
    Its signal is ``u.mT[..., None, None]``.
    """
    read = torch.ones_like(write) if read is None else read
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
) -> tuple[Float[Tensor, "*batch time width"], Float[Tensor, "*batch time width"]]:
    """``m_t = max(m_{t-1} + log_decay_t, logit_t)`` from ``m_0 = start``: m before and at a token.

    Computed one token after the other: by cumulative sums it would lose digits with every token.
    """
    peaks = [torch.zeros_like(logit[..., 0, :]) + start]
    for fade, new in zip(log_decay.unbind(-2), logit.unbind(-2), strict=True):
        peaks.append(torch.maximum(peaks[-1] + fade, new))
    found = torch.stack(peaks, dim=-2)
    return found[..., :-1, :], found[..., 1:, :]


def one_state(owner: str, *parts: Tensor | None) -> None:
    """Raise ShapeError if only some of ``start``, ``start_total`` and ``start_peak`` are there."""
    if any(part is None for part in parts) and not all(part is None for part in parts):
        raise ShapeError(
            f"{owner}: 'start', 'start_total' and 'start_peak' are one state, but only some of "
            f"them were given. Give all three, or none for a start from rest."
        )


NEAR_ZERO = 1e-5


class Sampled(NamedTuple):
    """A discretised diagonal: the decay, a factor per token, and the gain of the input."""

    decay: Tensor
    gain: Tensor


Discretisation = Callable[[Tensor, Tensor], Sampled]


def zero_order_hold(pole: Inexact[Tensor, "*pole"], step: Inexact[Tensor, "*step"]) -> Sampled:
    """Zero-order hold: ``exp(step pole)`` and ``(exp(step pole) - 1) / pole``.

    Exact for an input that is constant between tokens. The gain for a pole at zero is ``step``.
    """
    exponent = step * pole
    small = exponent.abs() < NEAR_ZERO
    away = torch.where(small, 1.0, exponent)
    near = torch.where(small, exponent, 0.0)
    ratio = torch.where(small, 1 + near / 2 + near * near / 6, torch.expm1(away) / away)
    return Sampled(exponent.exp(), step * ratio)


def bilinear(pole: Inexact[Tensor, "*pole"], step: Inexact[Tensor, "*step"]) -> Sampled:
    """The trapezoidal rule: ``(1 + step pole / 2) / (1 - step pole / 2)`` and ``step / (...)``."""
    inverse = 1 / (1 - step / 2 * pole)
    return Sampled((1 + step / 2 * pole) * inverse, step * inverse)


def bilinear_low_rank(
    pole: Inexact[Tensor, " state"],
    left: Inexact[Tensor, " state"],
    right: Inexact[Tensor, " state"],
    write: Inexact[Tensor, " state"],
    step: Inexact[Tensor, "*batch 1"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The trapezoidal rule for ``A = diag(pole) + left rightᴴ``, which stays of that form.

    ``-I + 2 (I - step A / 2)^{-1}`` and ``step (I - step A / 2)^{-1} write``, the inverse by
    Woodbury's identity. Returns decay, left, right and the input vector, for
    ``diag(decay) + left rightᵀ``: ``right`` is transposed, not conjugated.
    """
    half = step / 2
    inverse = 1 / (1 - half * pole)
    moved, seen = inverse * left, inverse * right.conj()
    loop = half / (1 - half * (seen * left).sum(dim=-1, keepdim=True))
    heard = (seen * write).sum(dim=-1, keepdim=True)
    driven = step * (inverse * write + loop * heard * moved)
    return 2 * inverse - 1, 2 * loop * moved, seen, driven


@mixer
class PortMixer(Mixer):
    """A time-invariant system with one port for every input and every output channel."""

    value: Float[Tensor, "*batch time input"]
    write: Complex[Tensor, "state input"]
    read: Complex[Tensor, "output state"]
    feedthrough: Float[Tensor, "*ports"] | None = None

    def sampled(
        self, decay: Inexact[Tensor, " state"], write: Inexact[Tensor, "state input"]
    ) -> System:
        """The system with these coefficients at every token; its real part is taken."""
        owner, D = type(self).__name__, self.feedthrough
        *batch, steps, inputs = self.value.shape
        outputs, states = self.read.shape
        if D is not None:
            if D.ndim == 1:
                agree(owner, "channel", feedthrough=D.shape[0], output=outputs, input=inputs)
                D = torch.diag_embed(D)
            has_axes(owner, "feedthrough", tuple(D.shape), "output input")
            agree(owner, "output", feedthrough=D.shape[0], read=outputs)
            agree(owner, "input", feedthrough=D.shape[1], write=inputs)
            D = D.expand(*batch, steps, outputs, inputs)
        return System(
            A=Diagonal(decay.expand(*batch, steps, states)),
            B=write.expand(*batch, steps, states, inputs),
            C=self.read.expand(*batch, steps, outputs, states),
            D=D,
            takes_real_part=True,
        )

    def signal(self) -> Shaped[Tensor, "*batch time input 1"]:
        return self.value.unsqueeze(-1)
