"""Discretisation of continuous-time state spaces, and systems with many ports."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from dsf.runtime.shapes import agree, has_axes
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

SMALL = 1e-5


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
    small = exponent.abs() < SMALL
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


def port_system(
    owner: str,
    value: Shaped[Tensor, "*batch time input"],
    decay: Inexact[Tensor, " state"],
    write: Inexact[Tensor, "state input"],
    read: Inexact[Tensor, "output state"],
    feedthrough: Shaped[Tensor, "*ports"] | None,
) -> System:
    """A time-invariant system with a port for every input and output; its real part is taken.

    ``feedthrough`` is D, ``output input``, or the diagonal of D.

    Raises:
        ShapeError: if it does not fit the numbers of ports.
    """
    *batch, steps, inputs = value.shape
    outputs, states = read.shape
    D = feedthrough
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
        C=read.expand(*batch, steps, outputs, states),
        D=D,
        takes_real_part=True,
    )
