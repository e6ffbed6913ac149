"""The panel of a diagonal plus low rank: a diagonal system with its own read fed back to it.

With ``z_t = right_tᵀ h_{t-1}`` the recurrence reads ``h_t = diag(decay_t) h_{t-1} + left_t z_t +
B_t u_t``: a diagonal system driven by ``(u, z)`` that puts out ``(y, z)``. Inside one window ``z``
solves a unit lower triangular system, so no matrix of state by state is ever formed for a token
(the compact WY form of delta rules, for any decay and any rank).
"""

import torch
from torch import Tensor

from dsf.evaluate.windows.panel import Panel
from dsf.evaluate.windows.segments import Read, diagonal_segment, scalar_segment
from dsf.transition import DiagonalPlusLowRank
from dsf.transition.storage import cast


def feedback_panel(A: DiagonalPlusLowRank, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """Close the loop ``z -> z`` of the diagonal system around ``A``."""
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
