"""Folding: a window of any system as a panel, with one algorithm for each structure of A_t."""

from dataclasses import replace
from itertools import product

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.arguments import working_dtype
from dsf.evaluate.windows.cutting import cut
from dsf.evaluate.windows.panel import Panel
from dsf.evaluate.windows.segments import Read, diagonal_segment, scalar_segment
from dsf.runtime.number_types import exact_dtype
from dsf.systems.coefficient import Matrices, dense_of
from dsf.systems.system import System
from dsf.systems.transition import (
    Dense,
    Diagonal,
    DiagonalPlusLowRank,
    Kronecker,
    SampledDiagonal,
    ScaledIdentity,
    Shift,
    Transition,
)
from dsf.systems.transition.storage import cast, on_parts


def moves_by_one(A: Shift) -> bool:
    """Whether every token shifts the states by one position."""
    return bool((A.places == 1).all())


def delay_panel(A: Shift, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """The panel of a delay line: whatever a token writes moves on by one state position a token.

    The map is computed diagonal by diagonal: a write of ``lag`` tokens ago is read in the states
    from position ``lag`` on, or ``lag - 1`` for a read before the update.
    """
    steps, states = A.steps, A.state_size
    late = int(before)
    local = write.new_zeros(())
    for lag in range(late, min(steps, states + late)):
        shift = lag - late
        weights = read[..., lag:, :, shift:] @ write[..., : steps - lag, : states - shift, :]
        local = local + torch.diag_embed(weights.movedim(-3, -1), offset=-lag)
    rows, columns = read.shape[-2], write.shape[-1]
    local = local.expand(*read.shape[:-3], rows, columns, steps, steps)
    local = local.movedim(-2, -4).movedim(-1, -2).flatten(-2).flatten(-3, -2)
    reach = [_shifted_read(read[..., t, :, :], t + 1 - late) for t in range(steps)]
    sent = [_shifted_write(write[..., t, :, :], steps - 1 - t) for t in range(steps)]
    return Panel(
        local=local,
        reach=torch.cat(reach, dim=-2),
        write=torch.cat(sent, dim=-1),
        carry=replace(A, places=A.places.sum().unsqueeze(0)),
    )


def _shifted_read(read: Tensor, places: int) -> Tensor:
    places = min(places, read.shape[-1])
    return pad(read[..., places:], (0, places))


def _shifted_write(write: Tensor, places: int) -> Tensor:
    places = min(places, write.shape[-2])
    return pad(write[..., : write.shape[-2] - places, :], (0, 0, places, 0))


def feedback_panel(A: DiagonalPlusLowRank, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """The panel of a diagonal plus low rank, as a diagonal system with a feedback loop.

    With ``z_t = right_tᵀ h_{t-1}`` the low-rank term is an input ``left_t z_t`` of the diagonal
    system. Inside the window z depends on itself through a strictly lower triangular matrix, so a
    triangular solve closes the loop.
    """
    writes = (write, A.left)
    reads = (Read(read, before), Read(A.right.mT, True))
    if A.state_size > 0 and A.decay.stride(-1) == 0:
        open_loop = scalar_segment(A.decay[..., 0], writes, reads)
    else:
        open_loop = diagonal_segment(A.decay, writes, reads)
    (y_from_u, y_from_z), (z_from_u, z_from_z) = open_loop.local
    y_from_h, z_from_h = open_loop.reach
    h_from_u, h_from_z = open_loop.sent
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
            decay=cast(open_loop.carry.diagonal(), dtype=h_from_z.dtype),
            left=h_from_z.unsqueeze(-3),
            right=by_h.mT.unsqueeze(-3),
        ),
    )


def coordinate_panel(A: Kronecker, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """The panel of states that mix alike on every coordinate.

    A write passes one product of the small matrices until it is read. So the map is a sum over
    pairs of states, each an entry of that product times the reads of one and the writes of the
    other.
    """
    outputs, inputs, dtype = read.shape[-2], write.shape[-1], write.dtype
    passed = _passed(A.small.to(exact_dtype(dtype, write.device)), before=before)
    seen, after = passed[..., :-1, :, :, :].to(dtype), passed[..., -1, :, :, :]
    by_state = (A.few, A.size)
    reads = read.unflatten(-1, by_state)  # time output few coordinate
    writes = write.unflatten(-2, by_state)  # time few coordinate input
    local = write.new_zeros(())
    for a, b in product(range(A.few), repeat=2):
        rows, columns = reads[..., a, :].flatten(-3, -2), writes[..., b, :, :].movedim(-2, -3)
        weights = (rows @ columns.flatten(-2)).unflatten(-1, (-1, inputs))
        weights = weights.unflatten(-3, (-1, outputs))
        local = local + seen[..., 1:, a, b][..., :, None, :, None] * weights
    reach = torch.einsum("... t o a n, ... t a b -> ... t o b n", reads, seen[..., 0, :, :])
    sent = torch.einsum(
        "... s b n i, ... s a b -> ... a n s i", writes, after[..., 1:, :, :].to(dtype)
    )
    return Panel(
        local=local.flatten(-2).flatten(-3, -2),
        reach=reach.flatten(-2).flatten(-3, -2),
        write=sent.flatten(-2).flatten(-3, -2),
        carry=Kronecker(after[..., :1, :, :], A.size),
    )


def _passed(
    small: Shaped[Tensor, "*batch time few few"], *, before: bool
) -> Shaped[Tensor, "*batch row column few few"]:
    """What the state before a window and every write have passed when a token reads.

    The last row is the state after the window. Column 0 is the state before it, column ``t + 1``
    what token t writes; zeros where it is not yet written.
    """
    steps, few = small.shape[-3:-1]
    one = torch.eye(few, dtype=small.dtype, device=small.device).expand_as(small[..., :1, :, :])
    since, rows = one, []
    for t in range(steps):
        earlier = since
        since = torch.cat([small[..., t : t + 1, :, :] @ since, one], dim=-3)
        rows.append(earlier if before else since)
    rows.append(since)
    return torch.stack([pad(row, (0,) * 5 + (steps + 1 - row.shape[-3],)) for row in rows], dim=-4)


def fold(system: System, start: int, stop: int, *, dtype: torch.dtype | None = None) -> Panel:
    """The panel of the tokens ``start`` to ``stop - 1`` of a forward system.

    Args:
        system: a system that does not run backward; its initial state is not used.
        start: the first token.
        stop: the token after the last.
        dtype: the number type to compute in; by default that of the system, with half precision
            raised to single.

    Raises:
        ValueError: if the system runs backward, or the tokens do not lie in the sequence.
    """
    if system.runs_backward:
        raise ValueError(
            "fold: needs a system that runs forward, but this one runs backward. "
            "Reverse it first: dsf.algebra.reverse(system)."
        )
    return _panel(_written_out(system, start, stop, dtype or working_dtype(system.dtype)))


def fold_together(
    system: System, start: int, stop: int, *, size: int, dtype: torch.dtype
) -> tuple[Panel, Transition]:
    """The panels of all windows of ``size`` tokens between ``start`` and ``stop``, at once.

    Returns:
        A panel with the windows as the last axis of its batch, and their ``carry`` as a transition
        whose time axis counts windows.
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
    """The panel of all tokens of a system whose A is written out."""
    write, read, before = dense_of(part.B), dense_of(part.C), part.reads_before_update
    if isinstance(part.A, ScaledIdentity):
        panel = scalar_segment(part.A.decay, [write], [Read(read, before)]).panel()
    elif isinstance(part.A, Diagonal):
        panel = diagonal_segment(part.A.decay, [write], [Read(read, before)]).panel()
    elif isinstance(part.A, DiagonalPlusLowRank):
        panel = feedback_panel(part.A, write, read, before=before)
    elif isinstance(part.A, Kronecker):
        panel = coordinate_panel(part.A, write, read, before=before)
    elif isinstance(part.A, Shift) and moves_by_one(part.A):
        panel = delay_panel(part.A, write, read, before=before)
    else:
        panel = _token_by_token(part, write, read)
    if _is_absent(part.feedthrough):
        return panel
    return replace(panel, local=panel.local + _on_diagonal(dense_of(part.feedthrough)))


def _is_absent(feedthrough: Matrices) -> bool:
    """Whether this is the one zero that stands for an absent feedthrough."""
    part = dense_of(feedthrough)
    return not any(part.stride()) and not bool(part.flatten()[:1].any())


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
        rows.append(torch.nn.functional.pad(row, (0, wanted - row.shape[-1])))
    reach, local = torch.cat(rows, dim=-2).to(dtype).tensor_split([states], dim=-1)
    carry, sent = state.tensor_split([states], dim=-1)
    sent = sent.to(dtype)
    return Panel(local=local, reach=reach, write=sent, carry=Dense(carry.unsqueeze(-3)))


def _on_diagonal(
    feedthrough: Shaped[Tensor, "*batch time output input"],
) -> Shaped[Tensor, "*batch rows columns"]:
    """D_t as blocks on the diagonal of a window's map."""
    steps, outputs, inputs = feedthrough.shape[-3:]
    blocks = torch.diag_embed(feedthrough.movedim(-3, -1))
    return blocks.permute(*range(blocks.ndim - 4), -2, -4, -1, -3).reshape(
        *feedthrough.shape[:-3], steps * outputs, steps * inputs
    )
