"""What a matrix memory holds at every token, for mixers that read through another memory."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.composite import PANEL
from dsf.solve import recurrence
from dsf.transition import Transition

Reading = Callable[[Tensor, int, int], Tensor]


def read_from(
    A: Transition,
    write: Float[Tensor, "*batch time state"],
    kept: Float[Tensor, "*batch time key"],
    read: Reading,
) -> Float[Tensor, "*batch time read"]:
    """What ``read`` makes of ``S_t = A_t S_{t-1} + write_t kept_tᵀ``, a few tokens at a time.

    ``read(memories, start, stop)`` gets the memories of the tokens ``start`` to ``stop - 1``, of
    shape ``*batch time state key``. All of them are never held at once, unless gradients are.
    """
    found, entering = [], torch.zeros_like(write[..., :1, :, None] * kept[..., :1, None, :])
    for start in range(0, A.steps, PANEL):
        stop = min(start + PANEL, A.steps)
        new = write[..., start:stop, :, None] * kept[..., start:stop, None, :]
        carried = A.window(start, start + 1) @ entering
        drive = torch.cat([new[..., :1, :, :] + carried, new[..., 1:, :, :]], dim=-3)
        memories = recurrence(A.window(start, stop), drive)
        found.append(read(memories, start, stop))
        entering = memories[..., -1:, :, :]
    return torch.cat(found, dim=-2)
