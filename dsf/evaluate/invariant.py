"""Time-invariant systems: impulse responses from powers of A, and one panel for all windows."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.arguments import Answer, forward_form, state_at_start
from dsf.evaluate.windows import Panel
from dsf.runtime.number_types import exact_dtype
from dsf.systems.coefficient import along_time, cut_of, delay, dense_of, is_constant
from dsf.systems.system import System
from dsf.systems.transition import Transition, continued, states_before


def varying(system: System) -> str | None:
    """The first of A, B, C, D that changes with time, or None."""
    if not (system.A.cut(0, min(2, system.steps)).is_constant and system.A.is_constant):
        return "A"
    for name, part in (("B", system.B), ("C", system.C), ("D", system.feedthrough)):
        if not is_constant(dense_of(part), axis=-3):
            return name
    return None


def lags(system: System) -> Shaped[Tensor, "*batch time output input"]:
    """The impulse response of a time-invariant system at every lag, in double precision.

    At lag ``q L + r`` it is ``(C A^r) (A^(q L) B)``: one product of two short lists, each of which
    is built by repeated doubling. Real where the system takes the real part.
    """
    forward = forward_form(system)
    A, B, C, D = first_token(forward, exact_dtype(system.dtype, system.device))
    within = 1 << (forward.steps.bit_length() // 2)
    reads, jump = _doubled(A.transposed(), C.mT, within)
    sent, _ = _doubled(jump.transposed(), B, -(-forward.steps // within))
    reads = reads.mT
    if system.takes_real_part and reads.is_complex():
        reads = torch.cat([reads.real, -reads.imag], dim=-1)
        sent, D = torch.cat([sent.real, sent.imag], dim=-2), torch.view_as_real(D + 0j)[..., 0]
    ports = (system.output_size, system.input_size)
    pairs = (reads @ sent).unflatten(-1, (-1, ports[1])).unflatten(-3, (-1, ports[0]))
    seen = pairs.movedim(-2, -4).flatten(-4, -3)[..., : system.steps, :, :]
    return _by_lag(seen, D, before=system.reads_before_update)


def _by_lag(seen: Tensor, D: Tensor, *, before: bool) -> Tensor:
    """The impulse response from ``C A^r B`` and D; ``before`` delays what is read by a token."""
    if before:
        seen = delay(seen, 1, axis=-3)
    return torch.cat([seen[..., :1, :, :] + D.unsqueeze(-3), seen[..., 1:, :, :]], dim=-3)


def first_token(system: System, dtype: torch.dtype) -> tuple[Transition, Tensor, Tensor, Tensor]:
    """A, B, C, D of the first token."""
    A = system.A.cut(0, 1).to(dtype=dtype).window(0, 1)
    parts = (system.B, system.C, system.feedthrough)
    B, C, D = (dense_of(cut_of(part, 0, 1, dtype)).squeeze(-3) for part in parts)
    return A, B, C, D


def _doubled(A: Transition, columns: Tensor, count: int) -> tuple[Tensor, Transition]:
    """``columns, A columns, A² columns, ...``, ``count`` of them, and the next power of A."""
    wanted, done = count * columns.shape[-1], 1
    while done < count:
        further = (A @ columns.unsqueeze(-3)).squeeze(-3)
        columns, A, done = torch.cat([columns, further], dim=-1), A.compose(A), 2 * done
    return columns[..., :wanted], A


def folded_once(system: System, signal: Tensor, size: int) -> Answer:
    """The response of a forward time-invariant system, and its final state.

    The number of tokens must be a multiple of the window ``size``; the state is carried from window
    to window in double precision.
    """
    exact = exact_dtype(signal.dtype, signal.device)
    panel = _window(system, size, exact)
    local, reach, write = (
        part.to(signal.dtype) for part in (panel.local, panel.reach, panel.write)
    )
    windows = signal.shape[-3] // size
    columns = signal.unflatten(-3, (windows, size)).movedim(-4, -2).flatten(-4, -3).flatten(-2)
    in_real_numbers = system.takes_real_part and signal.is_complex()
    if in_real_numbers:  # the real part of a complex number times a real signal is half the work
        local, reach, columns = local.real, torch.cat([reach.real, -reach.imag], -1), columns.real
        write = torch.cat([write.real, write.imag], dim=-2)
    sent = write @ columns
    if in_real_numbers:
        sent = torch.complex(*sent.tensor_split(2, dim=-2))
    drive = sent.unflatten(-1, (windows, -1)).movedim(-2, -3)
    state = state_at_start(system, signal).to(exact)
    carry = along_time(  # without a copy
        panel.carry,
        lambda one, axis: one.expand(*one.shape[:axis], windows, *one.shape[one.ndim + axis + 1 :]),
    )
    left, leaving = continued(carry, drive, state)
    states = states_before(state, left).movedim(-3, -2).flatten(-2).to(signal.dtype)
    if in_real_numbers:
        states = torch.cat([states.real, states.imag], dim=-2)
    response = (local @ columns + reach @ states).unflatten(-2, (size, -1))
    response = response.unflatten(-1, (windows, -1))
    return response.movedim(-2, -4).flatten(-4, -3), leaving.to(signal.dtype)


def _window(system: System, size: int, dtype: torch.dtype) -> Panel:
    """The panel of any window of ``size`` tokens: its map depends on the lag alone."""
    A, B, C, D = first_token(system, dtype)
    sent = _doubled(A, B, size)[0].unflatten(-1, (size, -1))
    seen = _doubled(A.transposed(), C.mT, size + 1)[0].mT.unflatten(-2, (size + 1, -1))
    at_once = seen[..., :-1, :, :] @ B.unsqueeze(-3)
    by_lag = _by_lag(at_once, D, before=system.reads_before_update)
    by_lag = torch.cat([by_lag, torch.zeros_like(by_lag[..., :1, :, :])], dim=-3)
    tokens = torch.arange(size, device=D.device)
    lag = tokens[:, None] - tokens
    local = by_lag[..., lag.where(lag >= 0, size), :, :]  # ... row column output input
    reach = seen[..., :-1, :, :] if system.reads_before_update else seen[..., 1:, :, :]
    return Panel(
        local=local.movedim(-2, -3).flatten(-2).flatten(-3, -2),
        reach=reach.flatten(-3, -2),
        write=sent.flip(-2).flatten(-2),
        carry=_power(A, size),
    )


def _power(A: Transition, count: int) -> Transition:
    if count == 1:
        return A
    half = _power(A, count // 2)
    whole = half.compose(half)
    return A.compose(whole) if count % 2 else whole
