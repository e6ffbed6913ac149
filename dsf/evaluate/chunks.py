"""The chunkwise evaluator: matrix products inside windows of tokens, a recurrence between them.

``scan`` is the parallel-scan evaluator: a prefix scan over one window, the whole sequence.
``convolution`` is that of time-invariant systems, by the fast Fourier transform.
"""

from dataclasses import replace
from itertools import pairwise

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from dsf.evaluate import windows
from dsf.evaluate.arguments import (
    Answer,
    Response,
    Signal,
    State,
    state_at_start,
    with_checked_arguments,
)
from dsf.evaluate.compiled import compiled
from dsf.evaluate.invariant import folded_once, lags, varying
from dsf.evaluate.loops import modes_response
from dsf.evaluate.stepwise import advance, applied
from dsf.runtime.number_types import exact_dtype
from dsf.runtime.shapes import at_least
from dsf.systems.solve import continued, doubling, states_before
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, Shift

# From this number of whole windows on, a time-invariant system is folded once for all of them.
FEW_WINDOWS = 2
# Up to these limits the recurrence inside a window took less time than forming its map, measured
# with 1, 16 and 128 states: columns for a diagonal, columns times states for a scaled identity.
# Only for at least this many sequences: for fewer, many windows are folded at once.
FEW_COLUMNS = 4
FEW_NUMBERS = 32
MANY_SEQUENCES = 8


def chunkwise(system: System, signal: Signal, *, size: int | None = None) -> Response:
    """The response in windows of ``size`` tokens: matrix products inside, a recurrence between.

    The memory in use is some windows and the carried state. Accurate for every decay, zeros
    included: decays are only multiplied. On a CPU, a diagonal transition with few signal columns is
    evaluated by the recurrence inside its windows too, which is less work than forming their maps.

    By default ``size`` is 64 for large states and on devices, else 32; for the recurrence as many
    tokens as have states that fit the cache: :mod:`dsf.evaluate.windows`.

    Raises:
        ValueError: if ``size`` is below 1.
    """
    if size is not None:
        size = at_least(1, "chunkwise", "size", size, " token")

    def run(forward: System, plain: Tensor) -> Tensor:
        return _run(forward, plain, size)[0]

    return with_checked_arguments(run, system, signal)


def final_state(system: System, signal: Signal) -> State:
    """The state after the last token that is processed: the ``initial`` of a continuation.

    For a system that runs backward this is the state once token 0 is processed. Complex where the
    coefficients are complex, also if the system takes the real part of its response.
    """
    states: list[Tensor] = []

    def run(forward: System, plain: Tensor) -> Tensor:
        response, state = _quickest(forward, plain)
        states.append(state.to(plain.dtype))
        return response

    with_checked_arguments(run, system, signal)
    return states[0]


def by_default(system: System, signal: Signal, *, out: Tensor | None = None) -> Response:
    """The response by a compiled loop where one applies, else chunkwise; equal to rounding."""
    found = modes_response(system, signal, out=out)
    if found is not None:
        return found
    return with_checked_arguments(
        lambda forward, plain: _quickest(forward, plain, out)[0], system, signal
    )


def _quickest(system: System, signal: Tensor, out: Tensor | None = None) -> Answer:
    return compiled(system, signal, out=out) or _run(system, signal, None)


def _run(system: System, signal: Tensor, size: int | None) -> Answer:
    if system.steps < FEW_WINDOWS * (size or windows.SMALLEST) or varying(system) is not None:
        return _in_turn(system, signal, size)
    size = size or windows.window_size(system, signal.shape[-1])
    whole = system.steps // size * size
    if whole < FEW_WINDOWS * size:
        return _in_turn(system, signal, size)
    response, state = folded_once(system, signal[..., :whole, :, :], size)
    if whole == system.steps:
        return response, state
    behind = replace(system.cut(whole, system.steps), initial=state)
    rest, last = _in_turn(behind, signal[..., whole:, :, :], size)
    return torch.cat([response, rest], dim=-3), last


def _in_turn(system: System, signal: Tensor, size: int | None) -> Answer:
    channels, stepped, at_once = signal.shape[-1], _is_stepped(system, signal), 1
    size = size or (windows.stepped_size if stepped else windows.window_size)(system, channels)
    if not stepped and windows.folds_together(system.A):
        at_once = windows.windows_at_once(system, channels, size)
    state, responses = state_at_start(system, signal), []
    state = state.to(exact_dtype(state.dtype, state.device))
    for start, stop in pairwise(_boundaries(system.steps, size, at_once)):
        given = signal[..., start:stop, :, :]
        if stepped:
            part = windows.cut(system, start, stop, dtype=signal.dtype)
            at_rest = start == 0 and system.initial is None
            response, state = advance(part, given, None if at_rest else state, solve=continued)
        elif stop - start > size:
            response, state = _folded_together(system, start, stop, given, state, size)
        else:
            response, state = _folded(system, start, stop, given, state)
        responses.append(response)
    return torch.cat(responses, dim=-3), state


def _boundaries(steps: int, size: int, at_once: int) -> list[int]:
    """Boundaries of groups of ``at_once`` whole windows, and of the rest at the end."""
    whole = steps // size * size
    return sorted({*range(0, whole, size * at_once), whole, steps})


def _is_stepped(system: System, signal: Tensor) -> bool:
    if isinstance(system.A, Shift):
        return system.A.moves_by_one
    if signal.device.type != "cpu" or system.batch.numel() < MANY_SEQUENCES:
        return False
    if isinstance(system.A, ScaledIdentity):
        return signal.shape[-1] * system.state_size <= FEW_NUMBERS
    return signal.shape[-1] <= FEW_COLUMNS and system.A.cut(0, 1).diagonal() is not None


def _folded(system: System, start: int, stop: int, signal: Tensor, state: Tensor) -> Answer:
    panel = windows.fold(system, start, stop, dtype=signal.dtype)
    entering = signal.flatten(-3, -2)
    response = panel.local @ entering + panel.reach @ state.to(entering.dtype)
    leaving = panel.carried(state) + panel.write @ entering
    return response.unflatten(-2, (stop - start, system.output_size)), leaving


def _folded_together(
    system: System, start: int, stop: int, signal: Tensor, state: Tensor, size: int
) -> Answer:
    panel, carry = windows.fold_together(system, start, stop, size=size, dtype=signal.dtype)
    entering = signal.unflatten(-3, (-1, size)).flatten(-3, -2)
    left, leaving = continued(carry, panel.write @ entering, state)
    before = states_before(state, left).to(entering.dtype)
    response = panel.local @ entering + panel.reach @ before
    return response.unflatten(-2, (size, system.output_size)).flatten(-4, -3), leaving


def scan(system: System, signal: Signal) -> Response:
    """The response by a parallel prefix scan: a logarithmic number of large operations.

    Stores all coefficients and all states at once; transitions become dense where their structure
    is not closed under products: ``time x state x state`` numbers. Meant for highly parallel
    devices and short sequences.
    """
    return with_checked_arguments(_scanned, system, signal)


def _scanned(system: System, signal: Tensor) -> Tensor:
    whole = windows.cut(system, 0, system.steps, dtype=signal.dtype)
    return advance(whole, signal, state_at_start(system, signal), solve=doubling)[0]


def convolution(system: System, signal: Signal) -> Response:
    """The response of a time-invariant system by one fast Fourier transform.

    Impulse response and transform are computed in double precision for every number type.

    Raises:
        ValueError: if any of A, B, C, D changes with time (names it).
    """
    return with_checked_arguments(_convolved, system, signal)


def _convolved(system: System, signal: Tensor) -> Tensor:
    name = varying(system)
    if name is not None:
        raise ValueError(
            f"convolution: needs a time-invariant system, but {name} changes with time. "
            f"Use method='chunkwise', which takes any coefficients."
        )
    if system.takes_real_part:
        signal = signal.real
    exact = exact_dtype(signal.dtype, signal.device)
    kernel = lags(system).to(exact)
    length = next_fast_len(2 * system.steps - 1, real=not signal.is_complex())
    transform, inverse = (
        (torch.fft.fft, torch.fft.ifft)
        if signal.is_complex()
        else (torch.fft.rfft, torch.fft.irfft)
    )
    spectra = (transform(part, n=length, dim=-3) for part in (kernel, signal.to(exact)))
    response = inverse(applied(*spectra), n=length, dim=-3)
    response = response[..., : system.steps, :, :].to(signal.dtype)
    if system.initial is None:
        return response
    return response + chunkwise(system, torch.zeros_like(signal))
