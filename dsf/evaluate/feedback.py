"""The panel of a diagonal plus low rank: a diagonal system with its own read fed back to it.

With ``z_t = right_tᵀ h_{t-1}`` the recurrence reads ``h_t = diag(decay_t) h_{t-1} + left_t z_t +
B_t u_t``: a diagonal system driven by ``(u, z)`` that puts out ``(y, z)``. Inside one window ``z``
solves a unit lower triangular system, so no matrix of state by state is ever formed for a token
(the compact WY form of delta rules, for any decay and any rank).
"""

import torch
from torch import Tensor

from dsf.evaluate.panel import Panel
from dsf.evaluate.segments import diagonal_panel, scalar_panel
from dsf.transition import DiagonalPlusLowRank


def feedback_panel(A: DiagonalPlusLowRank, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """Close the loop ``z -> z`` of the diagonal system around ``A``."""
    inputs = write.shape[-1]
    everything = torch.cat([write, A.left], dim=-1)
    outer = _diagonal(A.decay, everything, read, before=before)
    inner = _diagonal(A.decay, everything, A.right.mT, before=True)
    y_from_u, y_from_z = _split(outer.local, inputs, everything.shape[-1])
    z_from_u, z_from_z = _split(inner.local, inputs, everything.shape[-1])
    h_from_u, h_from_z = _split(outer.write, inputs, everything.shape[-1])
    identity = torch.eye(z_from_z.shape[-1], dtype=z_from_z.dtype, device=z_from_z.device)
    closed = torch.linalg.solve_triangular(
        identity - z_from_z,
        torch.cat([z_from_u, inner.reach], dim=-1),
        upper=False,
        unitriangular=True,
    )
    by_u, by_h = closed.tensor_split([z_from_u.shape[-1]], dim=-1)
    return Panel(
        local=y_from_u + y_from_z @ by_u,
        reach=outer.reach + y_from_z @ by_h,
        write=h_from_u + h_from_z @ by_u,
        carry=DiagonalPlusLowRank(
            decay=_carried(outer).unsqueeze(-2),
            left=h_from_z.unsqueeze(-3),
            right=by_h.mT.unsqueeze(-3),
        ),
    )


def _diagonal(decay: Tensor, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    if decay.stride(-1) == 0:
        return scalar_panel(decay[..., 0], write, read, before=before)
    return diagonal_panel(decay, write, read, before=before)


def _carried(panel: Panel) -> Tensor:
    """The decay over the whole window, one for every state."""
    ones = panel.write.new_ones(*panel.write.shape[:-1], 1)
    return panel.carried(ones).squeeze(-1)


def _split(part: Tensor, inputs: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns that belong to the signal, and those that belong to the fed-back read."""
    signal, fed = part.unflatten(-1, (-1, width)).tensor_split([inputs], dim=-1)
    return signal.flatten(-2), fed.flatten(-2)
