"""What rounding the state of a recurrence does to its response: exactly, in forecast, and at most.

A state h_t that is stored with few bits moves by e_t at every token, and the response by
``C_t Phi(t, s) e_s``: a system with the same A and C, whose input is e. The state of one head
is one block, with one scale for each token: its largest magnitude over ``2^(bits - 1) - 1``.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.systems.coefficient import dense_of
from dsf.systems.system import System

MIN_BITS, MAX_BITS = 2, 16
ROUNDING = 1 + 1e-9
"""Factor on a bound that covers the rounding of the bound itself."""

States = Shaped[Tensor, "*batch state channel"]
Response = Shaped[Tensor, "*batch time output channel"]
Bits = Float[Tensor, "*batch"]


def rounded(states: States, bits: Bits | int | str) -> States:
    """Round states to the nearest number that ``bits`` hold, with one scale for each head.

    Args:
        bits: how many for each head, or for all; or the name of a number type of torch.
    """
    if isinstance(bits, str):
        return states.to(getattr(torch, bits)).to(states)
    step = _step_of(states, bits)
    return torch.round(states / step) * step


def rounded_at_random(states: States, bits: Bits | int, rng: torch.Generator) -> States:
    """Round states to one of both neighbours, the more likely the nearer, so that the mean stays.

    Args:
        bits: as for ``rounded``.
        rng: where the numbers come from.
    """
    step = _step_of(states, bits)
    drawn = torch.rand(states.shape, generator=rng, dtype=states.dtype)
    return torch.floor(states / step + drawn) * step


def _step_of(states: States, bits: Bits | int) -> Tensor:
    step = largest(states) / levels(bits)
    return step[..., None, None].clamp_min(torch.finfo(states.dtype).tiny)


def with_feedback(store: Callable[[States], States]) -> Callable[[States], States]:
    """Return a rounding that adds what it took from one token's state to that of the next."""
    left: States | None = None

    def stored(states: States) -> States:
        nonlocal left
        wanted = states if left is None else states + left
        kept = store(wanted)
        left = wanted - kept
        return kept

    return stored


def levels(bits: Bits | int) -> Any:
    return 2.0 ** (bits - 1) - 1


def largest(states: States) -> Bits:
    return states.abs().amax(dim=(-2, -1))


def rounded_run(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    store: Callable[[States], States],
) -> tuple[
    Shaped[Tensor, "*batch time output channel"], Shaped[Tensor, "*batch time state channel"]
]:
    """Return the response with states that are rounded at every token, and the roundings e_t.

    Args:
        store: rounds the state of one token.
    """
    drive = dense_of(system.B) @ signal
    read = dense_of(system.C)
    state = torch.zeros_like(drive[..., 0, :, :]) if system.initial is None else system.initial
    responses, errors = [], []
    for t in range(system.steps):
        before = state
        exact = _step(system, t, state) + drive[..., t, :, :]
        state = store(exact)
        errors.append(state - exact)
        seen = before if system.reads_before_update else state
        responses.append(read[..., t, :, :] @ seen)
    response = torch.stack(responses, dim=-3)
    if system.D is not None:
        response = response + dense_of(system.D) @ signal
    return response, torch.stack(errors, dim=-3)


def replayed(system: System, errors: Shaped[Tensor, "*batch time state channel"]) -> Response:
    """Return by how much perturbations of the state move the response, exactly."""
    moved = torch.zeros_like(errors[..., 0, :, :])
    read, found = dense_of(system.C), []
    for t in range(system.steps):
        before = moved
        moved = _step(system, t, moved) + errors[..., t, :, :]
        found.append(read[..., t, :, :] @ (before if system.reads_before_update else moved))
    return torch.stack(found, dim=-3)


def states_of(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Iterator[States]:
    """Yield the exact state after every token."""
    drive = dense_of(system.B) @ signal
    state = torch.zeros_like(drive[..., 0, :, :]) if system.initial is None else system.initial
    for t in range(system.steps):
        state = _step(system, t, state) + drive[..., t, :, :]
        yield state


def forecast(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    bits: Bits,
    *,
    at_random: bool = False,
    feedback: bool = False,
) -> Shaped[Tensor, "*batch time"]:
    """Forecast the variance of the response's error at every token, without a rounded run.

    Roundings are taken for white noise, which goes through ``P_t = A_t P_(t-1) A_t^T + v_t``. Its
    variances v_t are those of the roundings of the exact state, entry by entry: with few bits most
    entries are less than half a step and lose all that they are.

    Args:
        bits: for each head.
        at_random: forecast ``rounded_at_random``.
        feedback: forecast ``with_feedback``. The error is then ``x_t = z_t - r_t`` with the
            rounding r_t and ``z_t = A_t z_(t-1) + (1 - A_t) r_(t-1)``: less where A is near one.
    """
    identity = torch.eye(system.state_size, dtype=signal.dtype)
    read, found = dense_of(system.C), []
    error = last = covariance = torch.zeros_like(identity)
    for t, state in enumerate(states_of(system, signal)):
        noise = _noise(state, bits, at_random=at_random, feedback=feedback)
        before, a, added = error, _dense(system, t), torch.diag_embed(noise.sum(dim=-1))
        covariance = a @ covariance @ a.mT
        if feedback:
            covariance = covariance + (identity - a) @ last @ (identity - a).mT
        last, error = added, covariance + added
        covariance = covariance if feedback else error
        c = read[..., t, :, :]
        seen = c @ (before if system.reads_before_update else error) @ c.mT
        found.append(seen.diagonal(dim1=-2, dim2=-1).sum(-1).expand(noise.shape[:-2]))
    return torch.stack(found, dim=-1)


def _noise(states: States, bits: Bits | int, *, at_random: bool, feedback: bool) -> States:
    """The variance of the rounding of every entry.

    What is fed back makes all roundings of a step equally likely.
    """
    step = _step_of(states, bits)
    part = states / step - torch.floor(states / step)
    if feedback:
        return (step.square() / (6 if at_random else 12)).expand_as(states)
    if at_random:
        return step.square() * part * (1 - part)
    return step.square() * torch.minimum(part, 1 - part).square()


def bound(
    system: System, signal: Shaped[Tensor, "*batch time input channel"], bits: Bits
) -> Shaped[Tensor, "*batch time"]:
    """Bound the error of every entry of the response at every token.

    Both a bound of every entry of the state, through ``|A_t|``, and one of the norm of a column,
    through the spectral norm of A_t, go from token to token; the smaller of them counts. The step
    is that of the rounded state, which is at most the error larger than the exact one.
    """
    most = _magnitudes(system, signal)
    entries = torch.zeros(*most.shape[:-1], system.state_size, dtype=signal.dtype)
    norm = torch.zeros_like(most[..., 0])
    read, found = dense_of(system.C).abs(), []
    for t in range(system.steps):
        a = _dense(system, t)
        entries_before, norm_before = entries, norm
        entries = (a.abs() @ entries.unsqueeze(-1)).squeeze(-1)
        norm = torch.linalg.matrix_norm(a, 2) * norm
        entries = torch.minimum(entries, norm.unsqueeze(-1))
        step = (most[..., t] + entries.amax(dim=-1)) / levels(bits)
        entries = ROUNDING * (entries + step.unsqueeze(-1) / 2)
        norm = ROUNDING * (norm + step / 2 * system.state_size**0.5)
        seen = (entries_before, norm_before) if system.reads_before_update else (entries, norm)
        c = read[..., t, :, :]
        by_entries = (c @ seen[0].unsqueeze(-1)).squeeze(-1).amax(-1)
        by_norm = c.square().sum(-1).sqrt().amax(-1) * seen[1]
        found.append(ROUNDING * torch.minimum(by_entries, by_norm))
    return torch.stack(found, dim=-1)


def noise_weight(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    adjoint: Shaped[Tensor, "*batch time output channel"],
) -> Bits:
    """Return the variance of ``<adjoint, response>`` where every step is the state's magnitude.

    Divided by the squared number of levels it is the forecast for any number of bits: with few of
    them more than the variance, since entries below half a step lose no more than they are.
    """
    most, read = _magnitudes(system, signal), dense_of(system.C)
    moved = torch.zeros(*adjoint.shape[:-3], system.state_size, adjoint.shape[-1]).to(adjoint)
    total = torch.zeros_like(most[..., 0])
    for t in range(system.steps - 1, -1, -1):
        from_here = read[..., t, :, :].mT @ adjoint[..., t, :, :]
        here = moved if system.reads_before_update else moved + from_here
        total = total + here.square().sum(dim=(-2, -1)) * most[..., t].square() / 12
        moved = _dense(system, t).mT @ here
        if system.reads_before_update:
            moved = moved + from_here
    return total


def _magnitudes(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Shaped[Tensor, "*batch time"]:
    """The largest magnitude in the state of every head after every token."""
    return torch.stack([largest(state) for state in states_of(system, signal)], dim=-1)


def _step(system: System, t: int, state: Tensor) -> Tensor:
    return (system.A.window(t, t + 1) @ state.unsqueeze(-3)).squeeze(-3)


def _dense(system: System, t: int) -> Tensor:
    return system.A.window(t, t + 1).dense().squeeze(-3)
