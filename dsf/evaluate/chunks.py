"""Window by window, with the state carried between."""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.border import at_border, at_start
from dsf.evaluate.compiled import compiled
from dsf.evaluate.delay_line import moves_by_one
from dsf.evaluate.equations import advance
from dsf.evaluate.folding import fold
from dsf.evaluate.invariant import begun, folded_once, varying
from dsf.evaluate.pieces import cached, cut
from dsf.solve import continued
from dsf.system import System
from dsf.transition import ScaledIdentity, Shift

Window = Callable[[System, int, int, Tensor, Tensor], tuple[Tensor, Tensor]]

SIZE = 64
# Whole windows of a system that does not change from which it pays to fold one for all.
FEW_WINDOWS = 2
# Up to here stepping through a window took less time than forming its map, measured with 1, 16 and
# 128 states: columns of a diagonal, columns times states of a scaled identity.
FEW_COLUMNS = 4
FEW_NUMBERS = 32


def chunkwise(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    size: int = SIZE,
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response in windows of ``size`` tokens: matrix products inside, the state between.

    Holds one window and the carried state at a time. Accurate for every decay, zeros included:
    decays are only ever multiplied. On a processor a diagonal that drives few columns is stepped
    through inside its windows, which takes less work than forming their maps.

    Raises:
        ValueError: if ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"chunkwise: size must be at least 1 token, but it is {size}.")

    def run(forward: System, plain: Tensor) -> Tensor:
        return _run(forward, plain, size)[0]

    return at_border(run, system, signal)


def final_state(
    system: System, signal: Shaped[Tensor, "*batch time input channel"]
) -> Shaped[Tensor, "*batch state channel"]:
    """The state after the last token the system meets: the ``initial`` of what follows.

    For a system that runs backward that is the state before the first token. Complex where the
    coefficients are, also where the response takes the real part.
    """
    states: list[Tensor] = []

    def run(forward: System, plain: Tensor) -> Tensor:
        response, state = _quickest(forward, plain)
        states.append(state.to(plain.dtype))
        return response

    at_border(run, system, signal)
    return states[0]


def by_default(
    system: System,
    signal: Shaped[Tensor, "*batch time input channel"],
    *,
    out: Tensor | None = None,
) -> Shaped[Tensor, "*batch time output channel"]:
    """A compiled loop where one applies, windows where not; the same to rounding.

    A loop writes into ``out`` where that has the order in memory that the loop has.
    """
    return at_border(lambda forward, plain: _quickest(forward, plain, out)[0], system, signal)


def _quickest(system: System, signal: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return compiled(system, signal, out=out) or _run(system, signal, SIZE)


def _run(system: System, signal: Tensor, size: int) -> tuple[Tensor, Tensor]:
    whole = system.steps // size * size
    if whole < FEW_WINDOWS * size or varying(system) is not None:
        return _in_turn(system, signal, size)
    response, state = folded_once(system, signal[..., :whole, :, :], size)
    if whole == system.steps:
        return response, state
    rest, last = _in_turn(begun(system, whole, state), signal[..., whole:, :, :], size)
    return torch.cat([response, rest], dim=-3), last


def _in_turn(system: System, signal: Tensor, size: int) -> tuple[Tensor, Tensor]:
    if not _is_stepped(system, signal):
        return _walked(_folded, system, signal, size)
    tokens = min(size, system.steps)
    axis, pieces = cached(system, signal, tokens)
    walked = [_walked(_stepped, *piece, size) for piece in pieces]
    if len(walked) == 1:
        return walked[0]
    responses, states = zip(*walked, strict=True)
    return torch.cat(responses, dim=axis), torch.cat(states, dim=axis)


def _walked(go: Window, system: System, signal: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Window after window; the state is handed on in double precision."""
    state, responses = at_start(system, signal), []
    state = state.to(torch.promote_types(state.dtype, torch.float64))
    for start in range(0, system.steps, size):
        stop = min(start + size, system.steps)
        response, state = go(system, start, stop, signal[..., start:stop, :, :], state)
        responses.append(response)
    return torch.cat(responses, dim=-3), state


def _is_stepped(system: System, signal: Tensor) -> bool:
    if isinstance(system.A, Shift):
        return moves_by_one(system.A)
    if signal.device.type != "cpu":
        return False
    if isinstance(system.A, ScaledIdentity):
        return signal.shape[-1] * system.state_size <= FEW_NUMBERS
    return signal.shape[-1] <= FEW_COLUMNS and system.A.cut(0, 1).diagonal() is not None


def _stepped(
    system: System, start: int, stop: int, signal: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    at_rest = start == 0 and system.initial is None
    part = cut(system, start, stop, dtype=signal.dtype)
    return advance(part, signal, None if at_rest else state, solve=continued)


def _folded(
    system: System, start: int, stop: int, signal: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    panel = fold(system, start, stop, dtype=signal.dtype)
    entering = signal.flatten(-3, -2)
    response = panel.local @ entering + panel.reach @ state.to(entering.dtype)
    leaving = panel.carried(state) + panel.write @ entering
    return response.unflatten(-2, (stop - start, system.output_size)), leaving
