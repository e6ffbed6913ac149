"""Windows of tokens folded into panels of four matrices, and rows of maps from these panels.

Nothing here divides by a product of decays or takes ``exp`` of a long difference: decays are only
multiplied, from each token to the tokens after it, so decays of zero or near zero lose no accuracy.

Short windows are many, and each costs operations to start and a state to carry. Long windows have
more pairs of tokens, and larger triangular systems where A_t has a low-rank term.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from math import ceil

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.arguments import State, Weights, check_forward, forward_form, working_dtype
from dsf.runtime.number_types import exact_dtype
from dsf.systems.coefficient import cast, delay, dense_of, on_parts
from dsf.systems.system import System
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    Kronecker,
    SampledDiagonal,
    ScaledIdentity,
    Transition,
)

Reads = Shaped[Tensor, "*batch rows state"]


@dataclass(frozen=True)
class Panel:
    """A window of tokens, folded.

    With ``u`` the signals and ``y`` the responses of the window stacked over its tokens, ``h`` the
    state before the window and ``h'`` the state after it:

        y = local u + reach h        h' = carry h + write u

    Attributes:
        local: the map of the window alone.
        reach: from the state before the window to the responses.
        write: from the signals to the state after the window.
        carry: the product of all A_t of the window, as a transition of one step. It may be in
            double precision, as the products of many windows are multiplied.
    """

    local: Weights
    reach: Reads
    write: Shaped[Tensor, "*batch state columns"]
    carry: Transition

    def carried(self, state: State) -> State:
        """``carry h``, in the precision of the state."""
        return _moved(self.carry, state)

    def seen_before(self, rows: Reads) -> Reads:
        """``rows carry``: rows that read the state after the window, acting on the one before."""
        return _moved(self.carry.transposed(), rows.mT).mT


def _moved(carry: Transition, state: Tensor) -> Tensor:
    dtype = state.dtype
    if carry.diagonal() is None:
        exact = torch.promote_types(carry.dtype, dtype)
        carry, state = carry.to(dtype=exact), state.to(exact)
    moved = (carry @ state.unsqueeze(-3)).squeeze(-3)
    return moved.to(dtype.to_complex() if moved.is_complex() else dtype)


def cut(system: System, start: int, stop: int, *, dtype: torch.dtype) -> System:
    """The tokens ``start`` to ``stop - 1`` in the number type ``dtype``, without initial state.

    Lazily sampled decays will be computed in double precision, other parts in ``dtype``: rounding a
    decay close to one to single precision gives a relative error of 3e-8 at every token, always of
    the same sign.
    """
    few = system.cut(start, stop, dtype=dtype)
    if not isinstance(few.A, SampledDiagonal):
        return few
    return replace(few, A=few.A.to(dtype=exact_dtype(dtype, few.device)))


SMALL = 4


def products(
    decay: Shaped[Tensor, "*batch time width"],
) -> Shaped[Tensor, "*batch time time width"]:
    """``decay`` multiplied over ``s + 1 ... t`` at ``[t, s]``; zero where ``s > t``."""
    steps = decay.shape[-2]
    token = torch.arange(steps, device=decay.device)
    later = (token[:, None] > token).unsqueeze(-1)
    running = torch.where(later, decay.unsqueeze(-2), 1).cumprod(dim=-3)
    return torch.where((token[:, None] >= token).unsqueeze(-1), running, 0)


def scalar_segment(decay: Shaped[Tensor, "*batch time"], write: Tensor, read: Tensor) -> Panel:
    """``A_t = decay_t I``: products of reads and writes, times the decays between the tokens.

    Every read is one of the state before its token.
    """
    between = products(decay.unsqueeze(-1)).squeeze(-1)
    exact = decay.to(exact_dtype(decay.dtype, decay.device)).cumprod(dim=-1)
    passed = delay(exact.to(decay.dtype), 1, axis=-1, fill=1.0)[..., None, None]
    rows, columns = _rows(read), _columns(write)
    return Panel(
        local=(rows @ columns) * _spread(delay(between, 1, axis=-2), rows, columns),
        reach=_rows(read * passed),
        write=_columns(write * between[..., -1, :, None, None]),
        carry=ScaledIdentity(exact[..., -1:], write.shape[-2]),
    )


def diagonal_segment(
    decay: Shaped[Tensor, "*batch time state"], write: Tensor, read: Tensor
) -> Panel:
    """``A_t = diag(decay_t)``; every read is one of the state before its token.

    Products of decays between all pairs are computed for blocks of 4 tokens only; blocks are then
    joined in pairs by matrix products until one block is left. The products of decays over whole
    blocks are in double precision, from decays that may be more precise than reads and writes.
    """
    steps = decay.shape[-2]
    blocks = 1
    while blocks * SMALL < steps:
        blocks *= 2
    missing = blocks * SMALL - steps if blocks > 1 else 0
    decay = pad(decay, (0, 0, 0, missing), value=1.0).unflatten(-2, (blocks, -1))
    longer, seen = (
        pad(part, (0, 0, 0, 0, 0, missing)).unflatten(-3, (blocks, -1)) for part in (write, read)
    )
    local, reach, sent, carry = _small(decay, longer, seen)
    while blocks > 1:
        local, reach, sent, carry = _joined(local, reach, sent, carry)
        blocks //= 2
    rows, columns = steps * read.shape[-2], steps * write.shape[-1]
    return Panel(
        local=local[..., 0, :rows, :columns],
        reach=reach[..., 0, :rows, :],
        write=sent[..., 0, :, :columns],
        carry=Diagonal(carry),
    )


Blocks = tuple[Tensor, Tensor, Tensor, Tensor]


def _small(decay: Tensor, write: Tensor, read: Tensor) -> Blocks:
    exact = decay.to(exact_dtype(decay.dtype, decay.device))
    decay = cast(decay, dtype=write.dtype)
    between = products(decay)
    reading = delay(between, 1, axis=-3)
    passed = delay(decay.cumprod(dim=-2), 1, axis=-2, fill=1.0)
    pairs = torch.einsum("...ton,...tsn,...snm->...tosm", read, reading, write)
    return (
        pairs.flatten(-2).flatten(-3, -2),
        _rows(read * passed.unsqueeze(-2)),
        _columns(write * between[..., -1, :, :].unsqueeze(-1)),
        reduce(torch.mul, exact.unbind(dim=-2)),
    )


def _joined(local: Tensor, reach: Tensor, sent: Tensor, carry: Tensor) -> Blocks:
    early, late = slice(0, None, 2), slice(1, None, 2)
    near = cast(carry, dtype=reach.dtype)
    passing = near[..., early, :].unsqueeze(-2)
    leaving = near[..., late, :].unsqueeze(-1)
    first, second = reach[..., early, :, :], reach[..., late, :, :]
    left, right = sent[..., early, :, :], sent[..., late, :, :]
    behind = local[..., late, :, :]
    top = pad(local[..., early, :, :], (0, behind.shape[-1]))
    return (
        torch.cat([top, torch.cat([second @ left, behind], dim=-1)], dim=-2),
        torch.cat([first, second * passing], dim=-2),
        torch.cat([leaving * left, right], dim=-1),
        carry[..., early, :] * carry[..., late, :],
    )


def _spread(reading: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A number for every pair of tokens, repeated for each pair of their ports."""
    steps = reading.shape[-1]
    outputs, inputs = rows.shape[-2] // steps, columns.shape[-1] // steps
    high = reading.repeat_interleave(outputs, -2) if outputs > 1 else reading
    return high.repeat_interleave(inputs, -1) if inputs > 1 else high


def _rows(read: Tensor) -> Tensor:
    return read.flatten(-3, -2)


def _columns(write: Tensor) -> Tensor:
    return write.squeeze(-1).mT if write.shape[-1] == 1 else write.movedim(-3, -2).flatten(-2)


def feedback_panel(A: DiagonalPlusLowRank, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """The panel of a diagonal plus low rank, as a diagonal system with a feedback loop.

    With ``z_t = right_tᵀ h_{t-1}`` the low-rank term is an input ``left_t z_t`` of the diagonal
    system. Inside the window z depends on itself through a strictly lower triangular matrix, so a
    triangular solve closes the loop.
    """
    (steps, inputs), outputs = (A.steps, write.shape[-1]), read.shape[-2]
    is_scalar = A.state_size > 0 and A.decay.stride(-1) == 0
    segment, decay = (scalar_segment, A.decay[..., 0]) if is_scalar else (diagonal_segment, A.decay)
    seen = read if before else _from_before(A.decay, read)
    open_loop = segment(
        decay, torch.cat([write, A.left], dim=-1), torch.cat([seen, A.right.mT], dim=-2)
    )
    local = open_loop.local.unflatten(-1, (steps, -1)).unflatten(-3, (steps, -1))
    reach = open_loop.reach.unflatten(-2, (steps, -1))
    sent = open_loop.write.unflatten(-1, (steps, -1))
    (y_from_u, y_from_z), (z_from_u, z_from_z) = (
        [part.flatten(-2).flatten(-3, -2) for part in rows.tensor_split([inputs], dim=-1)]
        for rows in local.tensor_split([outputs], dim=-3)
    )
    y_from_h, z_from_h = (part.flatten(-3, -2) for part in reach.tensor_split([outputs], dim=-2))
    h_from_u, h_from_z = (part.flatten(-2) for part in sent.tensor_split([inputs], dim=-1))
    if not before:
        y_from_z = y_from_z + _on_diagonal(read @ A.left)
    identity = torch.eye(z_from_z.shape[-1], dtype=z_from_z.dtype, device=z_from_z.device)
    closed = torch.linalg.solve_triangular(
        identity - z_from_z,
        torch.cat([z_from_u, z_from_h], dim=-1),
        upper=False,
        unitriangular=True,
    )
    by_u, by_h = closed.tensor_split([z_from_u.shape[-1]], dim=-1)
    return Panel(
        local=y_from_u + y_from_z @ by_u,
        reach=y_from_h + y_from_z @ by_h,
        write=h_from_u + h_from_z @ by_u,
        carry=DiagonalPlusLowRank(
            decay=cast(open_loop.carry.decays(), dtype=h_from_z.dtype),
            left=h_from_z.unsqueeze(-3),
            right=by_h.mT.unsqueeze(-3),
        ),
    )


def fold(system: System, start: int, stop: int, *, dtype: torch.dtype | None = None) -> Panel:
    """The panel of the tokens ``start`` to ``stop - 1`` of a forward system.

    Args:
        system: a system that does not run backward; its initial state is not used.
        start: the first token.
        stop: the token after the last.
        dtype: the number type to compute in; by default that of the system, with half precision
            raised to single.

    Raises:
        ValueError: if the system runs backward, or the tokens are outside the sequence.
    """
    check_forward("fold", system)
    return _panel(_written_out(system, start, stop, dtype or working_dtype(system.dtype)))


def fold_together(
    system: System, start: int, stop: int, *, size: int, dtype: torch.dtype
) -> tuple[Panel, Transition]:
    """The panels of all windows of ``size`` tokens between ``start`` and ``stop``, at once.

    Windows are the last axis of the batch; the time axis of the ``carry`` counts them.
    """
    part = _written_out(system, start, stop, dtype)
    axis = len(part.batch)

    def in_windows(stored: Tensor) -> Tensor:
        return stored.unflatten(axis, (-1, size))

    B, C, D = (in_windows(dense_of(each)) for each in (part.B, part.C, part.feedthrough))
    panel = _panel(replace(part, A=on_parts(part.A, in_windows), B=B, C=C, D=D))
    return panel, on_parts(panel.carry, lambda stored: stored.squeeze(axis + 1))


def folds_together(A: Transition) -> bool:
    """Whether all tensors of the structure begin with the axes ``*batch time``."""
    stored = (Dense, Diagonal, DiagonalPlusLowRank, Kronecker, SampledDiagonal, ScaledIdentity)
    return isinstance(A, stored)


def _written_out(system: System, start: int, stop: int, dtype: torch.dtype) -> System:
    part = cut(system, start, stop, dtype=dtype)
    return replace(part, A=part.A.window(0, stop - start))


def _panel(part: System) -> Panel:
    write, read, before = dense_of(part.B), dense_of(part.C), part.reads_before_update
    A, D = part.A, dense_of(part.feedthrough)
    if isinstance(A, ScaledIdentity | Diagonal):
        seen = read if before else _from_before(A.decays(), read)
        segment = scalar_segment if isinstance(A, ScaledIdentity) else diagonal_segment
        panel = segment(A.decay, write, seen)
    elif isinstance(A, DiagonalPlusLowRank):
        panel = feedback_panel(A, write, read, before=before)
    else:
        panel = _token_by_token(part, write, read)
        before = True  # what a token reads of itself is in the panel
    if not before:
        D = D + read @ write
    elif not any(D.stride()) and not bool(D.flatten()[:1].any()):  # the zero of an absent one
        return panel
    return replace(panel, local=panel.local + _on_diagonal(D))


def _from_before(decay: Tensor, read: Tensor) -> Tensor:
    """Reads of the state after its update as reads of what it was before."""
    return read * cast(decay, dtype=read.dtype).unsqueeze(-2)


def _token_by_token(system: System, write: Tensor, read: Tensor) -> Panel:
    """For all other structures: one product with A_t a token, in double precision."""
    states, inputs, dtype = system.state_size, system.input_size, write.dtype
    exact = exact_dtype(dtype, write.device)
    A, write, read = system.A.to(dtype=exact), write.to(exact), read.to(exact)
    state = torch.eye(states, dtype=exact, device=write.device)
    state = state.expand(*system.batch, states, states)
    rows = []
    for t in range(system.steps):
        earlier, carried = state, (A.window(t, t + 1) @ state.unsqueeze(-3)).squeeze(-3)
        state = torch.cat([carried, write[..., t, :, :]], dim=-1)
        seen = earlier if system.reads_before_update else state
        row = read[..., t, :, :] @ seen
        wanted = states + system.steps * inputs
        rows.append(pad(row, (0, wanted - row.shape[-1])))
    reach, local = torch.cat(rows, dim=-2).to(dtype).tensor_split([states], dim=-1)
    carry, sent = state.tensor_split([states], dim=-1)
    sent = sent.to(dtype)
    return Panel(local=local, reach=reach, write=sent, carry=Dense(carry.unsqueeze(-3)))


def _on_diagonal(feedthrough: Shaped[Tensor, "*batch time output input"]) -> Weights:
    steps, outputs, inputs = feedthrough.shape[-3:]
    blocks = torch.diag_embed(feedthrough.movedim(-3, -1))
    return blocks.permute(*range(blocks.ndim - 4), -2, -4, -1, -3).reshape(
        *feedthrough.shape[:-3], steps * outputs, steps * inputs
    )


# Numbers of windows that are folded at once: more take more memory, and on a CPU they do not fit in
# its cache.
TOGETHER, TOGETHER_ON_DEVICES = 1 << 20, 1 << 25
SMALLEST, USUAL, LARGE, LARGEST = 16, 32, 64, 256
MANY_PAIRS = 256
"""Pairs of an input and an output from which on their number decides about windows."""
STEPPED = 2**17  # numbers in the states of all tokens of a window that is stepped through


def window_size(system: System, channels: int) -> int:
    """Tokens of a window, 64 or 32: at most 1.4 times as slow as the best of five, measured.

    Fewer between many ports, so that a map between all of them takes no more work than the states.
    """
    is_large = min(system.state_size, channels) >= LARGE
    usual = LARGE if is_large or system.device.type != "cpu" else USUAL
    ports, pairs = system.input_size + system.output_size, system.input_size * system.output_size
    if pairs < MANY_PAIRS:
        return usual
    return min(usual, max(2, 1 << (system.state_size * ports // pairs).bit_length()))


def stepped_size(system: System, channels: int) -> int:
    """The window size for a recurrence inside windows: the largest whose states fit the cache."""
    numbers = max(1, system.batch.numel() * system.state_size * channels)
    return min(LARGEST, max(SMALLEST, 1 << max(0, (STEPPED // numbers).bit_length() - 1)))


def windows_at_once(system: System, channels: int, size: int) -> int:
    most = TOGETHER if system.device.type == "cpu" else TOGETHER_ON_DEVICES
    return max(1, most // max(1, system.batch.numel() * _held(system, channels, size)))


def numbers_at_once(system: System, channels: int) -> int:
    """Numbers in memory while windows of the default size are folded together."""
    size = min(window_size(system, channels), system.steps)
    windows = min(windows_at_once(system, channels, size), ceil(system.steps / size))
    return windows * system.batch.numel() * _held(system, channels, size)


def _held(system: System, channels: int, size: int) -> int:
    """Numbers in memory at a time while one window of one sequence is folded."""
    A, states = system.A, system.state_size
    inputs, outputs = size * system.input_size, size * system.output_size
    if isinstance(A, Dense | Kronecker):  # token by token, in double precision
        return 2 * (size * states**2 + (states + outputs) * (states + inputs)) + states * channels
    fed_back = size * A.left.shape[-1] if isinstance(A, DiagonalPlusLowRank) else 0
    held = (inputs + fed_back) * (outputs + fed_back) + states * (inputs + outputs + 2 * fed_back)
    if not fed_back:
        return held + states * channels
    # with the loop open and closed, the state carried in double precision
    return 2 * held + states * (channels + 4 * fed_back)


def forward_rows(system: System, boundaries: list[int]) -> Iterator[Weights]:
    """The rows between consecutive boundaries.

    The state as a function of all earlier inputs is carried along, with a column for each input.
    """
    past: Tensor | None = None  # *batch state columns
    for span in pairwise(_from_the_start(boundaries)):
        panel = fold(system, *span)
        if past is None:
            past = panel.write[..., :0]
        if span[0] >= boundaries[0]:
            ahead = _zeros(system, panel.local.shape[-2], system.steps - span[1])
            weights = torch.cat([panel.reach @ past, panel.local, ahead], dim=-1)
            yield weights.to(system.dtype)
        if span[1] < boundaries[-1]:
            past = torch.cat([panel.carried(past), panel.write], dim=-1)


def backward_rows(system: System, boundaries: list[int]) -> Iterator[Weights]:
    """The same for a system that runs backward.

    Its first row reads its last token, so all windows after the first boundary are folded first and
    stored as panels, whose size is proportional to the number of tokens, not to the map.
    """
    steps, forward = system.steps, forward_form(system)
    processed = _from_the_start([steps - boundary for boundary in reversed(boundaries)])
    panels = [fold(forward, *span) for span in pairwise(processed)]
    for span in pairwise(boundaries):
        panel = panels.pop()
        reach, behind = panel.reach, []  # weights of all earlier windows, the last window first
        for before in reversed(panels):
            behind.append(reach @ before.write)
            reach = before.seen_before(reach)
        ahead = _zeros(system, panel.local.shape[-2], span[0])
        weights = torch.cat([*behind[::-1], panel.local, ahead], dim=-1)
        yield _reversed(weights, system).to(system.dtype)


def _from_the_start(boundaries: list[int]) -> list[int]:
    """The boundaries, preceded by those of windows of the same width from token 0 on."""
    width = max(stop - start for start, stop in pairwise(boundaries))
    return [*range(0, boundaries[0], width), *boundaries]


def _reversed(weights: Tensor, system: System) -> Tensor:
    by_token = weights.unflatten(-1, (system.steps, system.input_size))
    by_token = by_token.unflatten(-3, (-1, system.output_size))
    return by_token.flip(-4, -2).flatten(-2).flatten(-3, -2)


def _zeros(system: System, rows: int, tokens: int) -> Tensor:
    zero = torch.zeros((), dtype=system.dtype, device=system.device)
    return zero.expand(*system.batch, rows, tokens * system.input_size)
