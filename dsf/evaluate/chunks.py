"""The chunkwise evaluator: matrix products inside windows of tokens, a recurrence between them.

``scan`` is the parallel-scan evaluator: a prefix scan over one window, the whole sequence.
``convolution`` is that of time-invariant systems, by the fast Fourier transform.
``respond`` chooses the evaluator that suits a system.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from itertools import pairwise

import torch
from jaxtyping import Shaped
from scipy.fft import next_fast_len
from torch import Tensor

from dsf.evaluate import windows
from dsf.evaluate.arguments import (
    Answer,
    Response,
    Signal,
    State,
    check_out,
    check_signal,
    state_at_start,
    with_checked_arguments,
    working_dtype,
)
from dsf.evaluate.compiled import compiled
from dsf.evaluate.invariant import folded_once, lags, varying
from dsf.evaluate.loops import modes_response
from dsf.evaluate.memory_plan import check_plan, respond_bytes
from dsf.evaluate.stepwise import advance, applied, in_windows, recurrent
from dsf.runtime.number_types import exact_dtype
from dsf.runtime.shapes import at_least
from dsf.systems import composite
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, Shift, continued, doubling, states_before

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
    return with_checked_arguments(partial(_run, size=size), system, signal)[0]


def final_state(system: System, signal: Signal) -> State:
    """The state after the last token that is processed: the ``initial`` of a continuation.

    For a system that runs backward this is the state once token 0 is processed. Complex where the
    coefficients are complex, also if the system takes the real part of its response.
    """
    _, state = with_checked_arguments(_quickest, system, signal)
    return state.to(working_dtype(torch.promote_types(system.dtype, signal.dtype)))


def by_default(system: System, signal: Signal, *, out: Tensor | None = None) -> Response:
    """The response by a compiled loop where one applies, else chunkwise; equal to rounding."""
    found = modes_response(system, signal, out=out)
    if found is not None:
        return found
    return with_checked_arguments(partial(_quickest, out=out), system, signal)[0]


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
    channels, at_once = signal.shape[-1], 1
    if _is_stepped(system, signal):
        return in_windows(system, signal, size or windows.stepped_size(system, channels))
    size = size or windows.window_size(system, channels)
    if windows.folds_together(system.A):
        at_once = windows.windows_at_once(system, channels, size)
    state, responses = state_at_start(system, signal), []
    state = state.to(exact_dtype(state.dtype, state.device))
    for start, stop in pairwise(_boundaries(system.steps, size, at_once)):
        given = signal[..., start:stop, :, :]
        if stop - start > size:
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
    return with_checked_arguments(_scanned, system, signal)[0]


def _scanned(system: System, signal: Tensor) -> Answer:
    whole = windows.cut(system, 0, system.steps, dtype=signal.dtype)
    return advance(whole, signal, state_at_start(system, signal), solve=doubling)


def convolution(system: System, signal: Signal) -> Response:
    """The response of a time-invariant system by one fast Fourier transform.

    Impulse response and transform are computed in double precision for every number type.

    Raises:
        ValueError: if any of A, B, C, D changes with time (names it).
    """
    return with_checked_arguments(_convolved, system, signal)[0]


def _convolved(system: System, signal: Tensor) -> tuple[Tensor, None]:
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
    if system.initial is not None:
        response = response + chunkwise(system, torch.zeros_like(signal))
    return response, None


Method = Callable[[System, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "recurrent": recurrent,
    "scan": scan,
    "chunkwise": chunkwise,
    "convolution": convolution,
}

# For signals of at least this many numbers the free memory is checked first.
LARGE = 2**24
SMALLER = (
    "Process fewer entries of the batch or fewer channels at a time, or split the sequence: "
    "dsf.evaluate.final_state gives the initial state of the next part."
)


def respond(
    system: composite.Operator,
    signal: Signal,
    *,
    method: Method | str | None = None,
    out: Shaped[Tensor, "*batch written output channel"] | None = None,
) -> Shaped[Tensor, "*batch written output channel"]:
    """The response of ``system`` to ``signal``. Every ``method`` gives the same, to rounding.

    Args:
        system: a system, a sum of systems, or an explicit map.
        signal: ``*batch time input channel``; ``channel`` columns share A, B, C, D.
        method: ``"recurrent"``, ``"scan"``, ``"chunkwise"`` or ``"convolution"`` (functions of
            ``dsf.evaluate``), or any function of a system and a signal. By default the one that
            suits the system: fused attention for an attention cache; a compiled loop where one
            applies (real numbers on a CPU, no gradients, enough work to pay for loading the
            compiler); else chunks.
        out: an earlier response, which is overwritten and returned: allocating fresh memory takes
            about as long as writing it ten times. It may share no memory with the arguments.

    Raises:
        ShapeError: if the signal does not fit the system, or ``out`` does not fit the response.
        ValueError: if ``method`` does not support the system.
        MapTooLarge: if the response takes more than half of the free memory.

    Example:
        A state with decay 0.5, driven by a unit impulse:

        >>> import dsf, torch
        >>> from dsf.systems import transition
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(transition.Diagonal(one / 2), one, one)
        >>> unit = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1)  # time, input, channel
        >>> dsf.respond(system, unit).flatten()
        tensor([1.0000, 0.5000, 0.2500])
        >>> dsf.respond(system, unit, method="recurrent").flatten()
        tensor([1.0000, 0.5000, 0.2500])
    """
    check_signal(system, signal)
    if isinstance(method, str) and method in METHODS:
        method = METHODS[method]
    if method is not None and not callable(method):
        kind = ValueError if isinstance(method, str) else TypeError
        raise kind(
            f"respond: expected 'method' to be one of {', '.join(METHODS)}, or a function of a "
            f"system and a signal, got {method!r}."
        )
    if isinstance(system, System) and out is None and signal.numel() >= LARGE:
        needed = respond_bytes(system, signal.shape[-1])
        check_plan("respond", needed, signal.device, cure=SMALLER)
    if out is not None:
        _can_hold(out, system, signal)
    response = _respond(system, signal, method, out)
    if out is None:
        return response
    return out if response.data_ptr() == out.data_ptr() else out.copy_(response)


def _respond(
    system: composite.Operator, signal: Tensor, method: Method | None, out: Tensor | None = None
) -> Tensor:
    if isinstance(system, composite.SystemSum):
        return reduce(torch.add, [_respond(part, signal, method) for part in system])
    if isinstance(system, composite.ExplicitMap):
        if method is not None:
            raise ValueError(
                "respond: this mixer is an explicit map without a recurrent state, so no method "
                "applies to it. Leave 'method' out."
            )
        return composite.mixed_by(system.rows, signal)
    if method is None and system.initial is None and not system.takes_real_part:
        rows = composite.kept_rows(system)
        if rows is not None and rows.is_causal:
            return composite.kept_response(system, rows, signal)
    return (method or partial(by_default, out=out))(system, signal)


def _can_hold(out: Tensor, system: composite.Operator, signal: Tensor) -> None:
    """Raise before the work where ``out`` can hold no response, or one of its sources."""
    dtype = torch.promote_types(composite.response_dtype(system), signal.dtype)
    shape = (*system.batch, system.steps, system.output_size, signal.shape[-1])
    check_out("respond", out, shape, dtype, system.device)
    if out.layout is not torch.strided or 0 in out.stride() or (out.requires_grad and out.is_leaf):
        raise ValueError(
            "respond: 'out' must be a dense tensor with memory of its own for every entry, and no "
            "parameter that is trained, such as an earlier response."
        )
    if out.is_meta or not out.numel():
        return
    if _span(out)[0] < _span(signal)[1] and _span(signal)[0] < _span(out)[1]:
        raise ValueError(
            "respond: 'out' shares memory with 'signal', which would be overwritten while it is "
            "read. Pass a copy of one of them."
        )


def _span(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
