"""A window of any system, folded into a panel by the structure of its A_t."""

import torch
from torch import Tensor

from dsf.evaluate.feedback import feedback_panel
from dsf.evaluate.panel import Panel
from dsf.evaluate.segments import diagonal_panel, scalar_panel
from dsf.system import System
from dsf.transition import Dense, Diagonal, DiagonalPlusLowRank, ScaledIdentity


def fold(system: System, start: int, stop: int) -> Panel:
    """What the tokens ``start`` to ``stop - 1`` of a forward system do."""
    part = system.window(start, stop)
    dtype = system.dtype
    write, read = (torch.as_tensor(matrices).to(dtype) for matrices in (part.B, part.C))
    before = part.reads_before_update
    if isinstance(part.A, ScaledIdentity):
        panel = scalar_panel(part.A.decay, write, read, before=before)
    elif isinstance(part.A, Diagonal):
        panel = diagonal_panel(part.A.decay, write, read, before=before)
    elif isinstance(part.A, DiagonalPlusLowRank):
        panel = feedback_panel(part.A, write, read, before=before)
    else:
        panel = _token_by_token(part, write, read)
    return Panel(
        local=panel.local + _on_diagonal(torch.as_tensor(part.feedthrough)),
        reach=panel.reach,
        write=panel.write,
        carry=panel.carry,
    )


def _token_by_token(system: System, write: Tensor, read: Tensor) -> Panel:
    """For structures without a form of their own: one product with A_t a token."""
    states, inputs = system.state_size, system.input_size
    identity = torch.eye(states, dtype=write.dtype, device=write.device)
    held = identity.expand(*system.batch, states, states)
    rows = []
    for t in range(system.steps):
        earlier, carried = held, (system.A.window(t, t + 1) @ held.unsqueeze(-3)).squeeze(-3)
        held = torch.cat([carried, write[..., t, :, :]], dim=-1)
        seen = earlier if system.reads_before_update else held
        row = read[..., t, :, :] @ seen
        wanted = states + system.steps * inputs
        rows.append(torch.nn.functional.pad(row, (0, wanted - row.shape[-1])))
    reach, local = torch.cat(rows, dim=-2).tensor_split([states], dim=-1)
    carry, sent = held.tensor_split([states], dim=-1)
    return Panel(local=local, reach=reach, write=sent, carry=Dense(carry.unsqueeze(-3)))


def _on_diagonal(feedthrough: Tensor) -> Tensor:
    """D_t as blocks on the diagonal of a window's map."""
    steps, outputs, inputs = feedthrough.shape[-3:]
    blocks = torch.diag_embed(feedthrough.movedim(-3, -1))
    return blocks.permute(*range(blocks.ndim - 4), -2, -4, -1, -3).reshape(
        *feedthrough.shape[:-3], steps * outputs, steps * inputs
    )
