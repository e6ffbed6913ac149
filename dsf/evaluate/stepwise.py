"""One token after the other, as the equations are written."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.equations import advance, at_border, at_start
from dsf.solve import recurrence
from dsf.system import System

WINDOW = 64


def recurrent(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response, one token after the other: the reference for every other evaluator.

    Coefficients are written out for 64 tokens at a time, so a lazily sampled diagonal stays small.
    """
    return at_border(_run, system, signal)


def _run(system: System, signal: Tensor) -> Tensor:
    state, responses = at_start(system, signal), []
    for start in range(0, system.steps, WINDOW):
        stop = min(start + WINDOW, system.steps)
        part = signal[..., start:stop, :, :]
        response, state = advance(system.window(start, stop), part, state, solve=recurrence)
        responses.append(response)
    return torch.cat(responses, dim=-3)


def step(
    system: System,
    token: int,
    state: Shaped[Tensor, "*batch state channel"],
    signal: Shaped[Tensor, "*batch input channel"],
) -> tuple[Shaped[Tensor, "*batch output channel"], Shaped[Tensor, "*batch state channel"]]:
    """One token of a stream: its response, and the state to hand to the next call.

    Args:
        system: any causal system; only the coefficients of ``token`` are looked at.
        token: which token, counted from 0.
        state: the state before it; ``system.initial`` or zeros for the first.
        signal: what enters at this token.

    Raises:
        ValueError: for a system that runs backward, which cannot stream.
    """
    if system.runs_backward:
        raise ValueError(
            "step: a system that runs backward needs the whole sequence before its first response. "
            "Use dsf.respond on the whole sequence."
        )
    dtype = torch.promote_types(system.dtype, torch.promote_types(state.dtype, signal.dtype))
    response, leaving = advance(
        system.window(token, token + 1),
        signal.to(dtype).unsqueeze(-3),
        state.to(dtype),
        solve=recurrence,
    )
    response = response.squeeze(-3)
    return (response.real if system.takes_real_part else response), leaving
