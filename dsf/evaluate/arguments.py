"""Argument checks and conversions shared by all evaluators: sizes, number types, direction."""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.runtime.shapes import ShapeError, agree, has_axes, of_kind, on_one_device
from dsf.systems.composite import ExplicitMap, Operator, parts_of
from dsf.systems.system import System, time_reversed

Signal = Shaped[Tensor, "*batch time input channel"]
Response = Shaped[Tensor, "*batch time output channel"]
Weights = Shaped[Tensor, "*batch rows columns"]
State = Shaped[Tensor, "*batch state channel"]
Answer = tuple[Response, State]
"""The response of a forward system, and its final state."""
Final = TypeVar("Final", bound=Tensor | None)

HALVES = (torch.float16, torch.bfloat16)


def with_checked_arguments(
    run: Callable[[System, Tensor], tuple[Tensor, Final]], system: System, signal: Tensor
) -> tuple[Tensor, Final]:
    """Run an evaluator on checked arguments: a forward system and a signal of one number type.

    Returns the response of the system, and the final state as the evaluator gave it.

    Number types are promoted as torch does: a real signal becomes complex for complex
    coefficients, and the higher of two precisions is used. Half precision is computed in single
    precision. A system that runs backward is evaluated on the reversed sequence.
    """
    if not isinstance(system, System):
        raise TypeError(
            f"'system' must be one System for an evaluator, but it got {type(system).__name__}. "
            f"dsf.respond takes sums of systems and explicit maps as well."
        )
    check_signal(system, signal)
    if system.takes_real_part and signal.is_complex():
        raise ValueError(
            "respond: this system takes the real part of its output, which is linear in real "
            "signals only, but the signal is complex. Evaluate its real and its imaginary part "
            "separately."
        )
    dtype = torch.promote_types(system.dtype, signal.dtype)
    signal = signal.to(working_dtype(dtype))
    if system.runs_backward:
        response, state = run(forward_form(system), signal.flip(-3))
        response = response.flip(-3)
    else:
        response, state = run(system, signal)
    if system.takes_real_part:
        response, dtype = response.real, dtype.to_real()
    return response.to(dtype), state


def check_signal(system: Operator, signal: Tensor) -> None:
    """Raise unless ``signal`` can drive ``system``."""
    check_operator("respond", system)
    of_kind("respond", "signal", signal, Tensor, "a torch tensor")
    if signal.layout is not torch.strided:
        raise ValueError(
            f"respond: 'signal' must be a dense tensor, but its layout is {signal.layout}. Convert "
            f"it first: .to_dense()."
        )
    has_axes("respond", "signal", signal.shape, "*batch time input channel")
    reads = system.read_steps if isinstance(system, ExplicitMap) else system.steps
    agree("respond", "time", system=reads, signal=signal.shape[-3])
    agree("respond", "input", system=system.input_size, signal=signal.shape[-2])
    agree("respond", "batch", system=tuple(system.batch), signal=tuple(signal.shape[:-3]))
    on_one_device("respond", system=system.device, signal=signal.device)
    for part in parts_of(system):
        if part.initial is not None:
            channels = part.initial.shape[-1]
            agree("respond", "channel", initial=channels, signal=signal.shape[-1])


def check_operator(owner: str, given: object) -> None:
    """Raise unless ``given`` is a system, a sum of systems or an explicit map."""
    words = "a System (a mixer gives one: mixer.system()), a SystemSum or an ExplicitMap"
    of_kind(owner, "system", given, Operator, words)


def check_out(
    owner: str, out: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise unless a result of this shape, type and device can be written into ``out``."""
    of_kind(owner, "out", out, Tensor, "a torch tensor, such as an earlier result")
    if (tuple(out.shape), out.dtype, out.device) != (shape, dtype, device):
        raise ShapeError(
            f"{owner}: 'out' must have the shape {shape}, the type {dtype} and be on {device}, but "
            f"it has {tuple(out.shape)}, {out.dtype} and is on {out.device}. Make it with "
            f"torch.empty({shape}, dtype={dtype}, device={str(device)!r})."
        )


def check_finite(owner: str, name: str, *parts: Tensor) -> None:
    """Raise ValueError if a number is NaN or infinite."""
    if not all(bool(part.isfinite().all()) for part in parts):
        raise ValueError(f"{owner}: '{name}' holds numbers that are NaN or infinite.")


def check_forward(owner: str, system: System) -> None:
    """Raise ValueError if the system runs backward."""
    if system.runs_backward:
        raise ValueError(
            f"{owner}: needs a causal system, but this one runs backward. Reverse it first: "
            "dsf.systems.algebra.reverse(system)."
        )


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The number type to compute in: half precision is too coarse for running sums."""
    return torch.float32 if dtype in HALVES else dtype


def state_at_start(system: System, signal: Signal) -> State:
    """The state before the first token: ``system.initial``, or zero."""
    if system.initial is None:
        return signal.new_zeros(*system.batch, system.state_size, signal.shape[-1])
    return system.initial.to(signal.dtype)


def forward_form(system: System) -> System:
    """A forward system: one that runs backward gets its tokens reversed, others are unchanged."""
    return time_reversed(system) if system.runs_backward else system


def norm(weights: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """The l2 norm along ``dim``, without squares that leave the range of the number type."""
    if not weights.numel():
        return torch.linalg.vector_norm(weights, dim=dim)
    size = weights.abs()
    largest = size.detach().amax(dim=dim, keepdim=True)
    least, most = safe_range(largest.dtype)
    safe = (largest >= least) & (largest <= most)
    unit = torch.where(safe | ~(largest > 0) | largest.isinf(), 1, largest)
    return torch.linalg.vector_norm(weights / unit, dim=dim) * unit.squeeze(dim)


def safe_range(dtype: torch.dtype) -> tuple[float, float]:
    """Magnitudes between which sums of squares keep all their digits."""
    limits = torch.finfo(dtype)
    return (limits.tiny / limits.eps) ** 0.5, (limits.max * limits.eps) ** 0.5
