"""The panel of a delay line: every state moves one place on at every token."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.windows.panel import Panel
from dsf.transition import Shift


def moves_by_one(A: Shift) -> bool:
    """Whether every token moves all states one place on."""
    return bool((A.places == 1).all())


def delay_panel(A: Shift, write: Tensor, read: Tensor, *, before: bool) -> Panel:
    """What is written at a token stands in the states one token later one place further on.

    Entry by entry along diagonals: a read meets what was written ``lag`` tokens ago in the states
    from ``lag`` on. A read before the update meets it one place earlier.
    """
    steps, states = A.steps, A.state_size
    late = int(before)
    local = write.new_zeros(())
    for lag in range(late, min(steps, states + late)):
        place = lag - late
        met = read[..., lag:, :, place:] @ write[..., : steps - lag, : states - place, :]
        local = local + torch.diag_embed(met.movedim(-3, -1), offset=-lag)
    rows, columns = read.shape[-2], write.shape[-1]
    local = local.expand(*read.shape[:-3], rows, columns, steps, steps)
    local = local.movedim(-2, -4).movedim(-1, -2).flatten(-2).flatten(-3, -2)
    reach = [_from_place(read[..., t, :, :], t + 1 - late) for t in range(steps)]
    sent = [_moved(write[..., t, :, :], steps - 1 - t) for t in range(steps)]
    return Panel(
        local=local,
        reach=torch.cat(reach, dim=-2),
        write=torch.cat(sent, dim=-1),
        carry=replace(A, places=A.places.sum().unsqueeze(0)),
    )


def _from_place(read: Tensor, place: int) -> Tensor:
    place = min(place, read.shape[-1])
    return pad(read[..., place:], (0, place))


def _moved(write: Tensor, places: int) -> Tensor:
    places = min(places, write.shape[-2])
    return pad(write[..., : write.shape[-2] - places, :], (0, 0, places, 0))
