"""The recurrent evaluator: one token after the other, for a whole sequence or a stream.

``advance`` and ``applied`` are the state equation and the output equation, which other evaluators
solve in other ways.
"""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import (
    Answer,
    Response,
    Signal,
    State,
    state_at_start,
    with_checked_arguments,
    working_dtype,
)
from dsf.evaluate.windows import cut
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import agree, on_one_device
from dsf.systems.coefficient import Coefficient, Matrices
from dsf.systems.system import System
from dsf.systems.transition import Transition, continued, states_before

Solver = Callable[[Transition, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def advance(system: System, signal: Signal, entering: State | None, *, solve: Solver) -> Answer:
    """Response from the state ``entering`` (zero if None), and the state after the last token."""
    drive = applied(system.B, signal)
    seen, leaving = solve(system.A, drive, entering)
    if system.reads_before_update:
        before = torch.zeros_like(seen[..., 0, :, :]) if entering is None else entering
        seen = states_before(before, seen)
    return applied(system.C, seen) + applied(system.feedthrough, signal), leaving


def applied(matrices: Matrices, columns: Tensor) -> Tensor:
    """``matrices @ columns``; products with a single row or column are faster elementwise."""
    if isinstance(matrices, Coefficient):
        return matrices @ columns
    if matrices.shape[-1] == 1:
        return matrices * columns
    if matrices.shape[-2] == columns.shape[-1] == 1:
        return (matrices.mT * columns).sum(dim=-2, keepdim=True)
    return matrices @ columns


WINDOW = 64


def recurrent(system: System, signal: Signal) -> Response:
    """The response, one token after the other: the reference for every other evaluator.

    Lazily sampled coefficients are written out for 64 tokens at a time, which bounds the memory.
    """
    return with_checked_arguments(in_windows, system, signal)[0]


def in_windows(system: System, signal: Tensor, size: int = WINDOW) -> Answer:
    """The recurrence of a forward system, with coefficients written out for ``size`` tokens."""
    state, responses = state_at_start(system, signal), []
    for start in range(0, system.steps, size):
        stop = min(start + size, system.steps)
        window = cut(system, start, stop, dtype=signal.dtype)
        at_rest = start == 0 and system.initial is None  # the first A_t may then be infinite
        given, entering = signal[..., start:stop, :, :], None if at_rest else state
        response, state = advance(window, given, entering, solve=continued)
        responses.append(response)
    return torch.cat(responses, dim=-3), state


@checked
def step(
    system: System, token: int, state: State, signal: Shaped[Tensor, "*batch input channel"]
) -> tuple[Shaped[Tensor, "*batch output channel"], State]:
    """One token of a stream: its response, and the state to pass to the next call.

    Args:
        system: any causal system; only the coefficients of ``token`` are used.
        token: the token, counted from 0.
        state: the state before it; ``system.initial`` or zeros for the first.
        signal: the signal at this token.

    Raises:
        ValueError: for a system that runs backward, which cannot stream, a token outside the
            sequence, or a complex signal where the system takes the real part.
        ShapeError: if the state or the signal does not fit the system.

    Example:
        A state with decay 0.5:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> state = torch.zeros(1, 1)
        >>> for token, value in enumerate([1.0, 0.0, 4.0]):
        ...     response, state = dsf.evaluate.step(system, token, state, torch.tensor([[value]]))
        ...     print(response.item())
        1.0
        0.5
        4.25
    """
    if system.runs_backward:
        raise ValueError(
            "step: a system that runs backward needs the whole sequence before its first response. "
            "Use dsf.respond on the whole sequence."
        )
    if system.takes_real_part and signal.is_complex():
        raise ValueError("step: this system takes the real part, so its signal must be real.")
    if not 0 <= token < system.steps:
        raise ValueError(
            f"step: 'token' must lie between 0 and {system.steps - 1}, but it is {token}."
        )
    batch = tuple(system.batch)
    agree("step", "batch", system=batch, state=state.shape[:-2])
    agree("step", "state", system=system.state_size, state=state.shape[-2])
    agree("step", "input", system=system.input_size, signal=signal.shape[-2])
    on_one_device("step", system=system.device, state=state.device, signal=signal.device)
    dtype = torch.promote_types(system.dtype, torch.promote_types(state.dtype, signal.dtype))
    response, leaving = advance(
        cut(system, token, token + 1, dtype=working_dtype(dtype)),
        signal.to(working_dtype(dtype)).unsqueeze(-3),
        state.to(working_dtype(dtype)),
        solve=continued,
    )
    response = response.squeeze(-3)
    leaving = leaving.to(response.dtype)
    return (response.real if system.takes_real_part else response), leaving
