"""The two equations of a system, and what happens at the border of every evaluator."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.coefficient import Coefficient
from dsf.system import Matrices, System
from dsf.transition import Transition

Solver = Callable[[Transition, Tensor], Tensor]


def advance(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    entering: Shaped[Tensor, "*batch state channel"],
    *,
    solve: Solver,
) -> tuple[Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch state channel"]]:
    """Response to ``signal`` from the state ``entering``, and the state after the last token.

    The one place where the two equations of a system are written down.
    """
    entering = entering.unsqueeze(-3)
    drive = system.B @ signal
    first = drive[..., :1, :, :] + system.A.window(0, 1) @ entering
    states = solve(system.A, torch.cat([first, drive[..., 1:, :, :]], dim=-3))
    earlier = torch.cat([entering, states[..., :-1, :, :]], dim=-3)
    seen = earlier if system.reads_before_update else states
    return system.C @ seen + system.feedthrough @ signal, states[..., -1, :, :]


def at_start(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Shaped[Tensor, "*batch state channel"]:
    """The state before the first token: ``system.initial``, or zero."""
    size = (*system.batch, system.state_size, signal.shape[-1])
    if system.initial is None:
        return signal.new_zeros(size)
    return system.initial.to(signal.dtype).expand(size)


def forward_form(system: System) -> System:
    """A system that runs backward, with its tokens put into the order in which it meets them."""
    if not system.runs_backward:
        return system
    return replace(
        system,
        A=system.A.flipped(),
        B=_flipped(system.B),
        C=_flipped(system.C),
        D=_flipped(system.feedthrough),
        runs_backward=False,
    )


def _flipped(part: Matrices) -> Matrices:
    return part.flipped() if isinstance(part, Coefficient) else part.flip(-3)


def at_border(run: Callable[[System, Tensor], Tensor], system: System, signal: Tensor) -> Tensor:
    """Run an evaluator on plain ground: tokens in running order, one number type.

    A real signal meets complex coefficients as a complex one; a lower precision is raised to the
    higher of the two, as torch does elsewhere.
    """
    if system.takes_real_part and signal.is_complex():
        raise ValueError(
            "respond: this system gives the real part of its output, which is linear in real "
            "signals only, but the signal is complex. Drive it with the real and the imaginary "
            "part in turn."
        )
    dtype = torch.promote_types(system.dtype, signal.dtype)
    signal = signal.to(dtype)
    if system.runs_backward:
        response = run(forward_form(system), signal.flip(-3)).flip(-3)
    else:
        response = run(system, signal)
    return response.real if system.takes_real_part else response
