"""Windows of systems whose A_t is diagonal or a scaled identity, by running products of decays.

Nothing here divides by a product of decays or takes ``exp`` of a long difference: decays are only
multiplied, from each token to the tokens after it, so decays of zero or near zero lose no accuracy.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.evaluate.windows.panel import Panel
from dsf.runtime.number_types import exact_dtype
from dsf.systems.transition import Diagonal, ScaledIdentity
from dsf.systems.transition.storage import cast
from dsf.systems.transition.timeline import delay

SMALL = 4


class Read(NamedTuple):
    """Output matrices, and whether they read the state before its update."""

    matrices: Shaped[Tensor, "*batch time output state"]
    before: bool


class Segment(NamedTuple):
    """The panels of a window for every pair of several writes and several reads.

    ``local[i][j]`` is for read i and write j, ``reach[i]`` for read i, ``sent[j]`` (``write`` in a
    :class:`Panel`) for write j, and ``carry`` is common to all.
    """

    local: list[list[Tensor]]
    reach: list[Tensor]
    sent: list[Tensor]
    carry: ScaledIdentity | Diagonal

    def panel(self) -> Panel:
        """The panel of the first read and the first write."""
        return Panel(
            local=self.local[0][0], reach=self.reach[0], write=self.sent[0], carry=self.carry
        )


def products(
    decay: Shaped[Tensor, "*batch time width"],
) -> Shaped[Tensor, "*batch time time width"]:
    """``decay`` multiplied over ``s + 1 ... t`` at ``[t, s]``; zero where ``s > t``."""
    steps = decay.shape[-2]
    token = torch.arange(steps, device=decay.device)
    later = (token[:, None] > token).unsqueeze(-1)
    running = torch.where(later, decay.unsqueeze(-2), 1).cumprod(dim=-3)
    return torch.where((token[:, None] >= token).unsqueeze(-1), running, 0)


def scalar_segment(
    decay: Shaped[Tensor, "*batch time"], writes: Sequence[Tensor], reads: Sequence[Read]
) -> Segment:
    """``A_t = decay_t I``: products of reads and writes, times the decays between the tokens."""
    between = products(decay.unsqueeze(-1)).squeeze(-1)
    exact = decay.to(exact_dtype(decay.dtype, decay.device)).cumprod(dim=-1)
    reached = exact.to(decay.dtype)
    columns = [_columns(write) for write in writes]
    local, reach = [], []
    for read, before in reads:
        reading = delay(between, 1, axis=-2) if before else between
        passed = delay(reached, 1, axis=-1, fill=1.0) if before else reached
        rows = _rows(read)
        local.append([(rows @ each) * _spread(reading, rows, each) for each in columns])
        reach.append(_rows(read * passed[..., None, None]))
    leaving = between[..., -1, :, None, None]
    sent = [_columns(write * leaving) for write in writes]
    return Segment(local, reach, sent, ScaledIdentity(exact[..., -1:], writes[0].shape[-2]))


def diagonal_segment(
    decay: Shaped[Tensor, "*batch time state"], writes: Sequence[Tensor], reads: Sequence[Read]
) -> Segment:
    """``A_t = diag(decay_t)``.

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
    longer = [pad(write, (0, 0, 0, 0, 0, missing)).unflatten(-3, (blocks, -1)) for write in writes]
    seen = [
        Read(pad(read, (0, 0, 0, 0, 0, missing)).unflatten(-3, (blocks, -1)), before)
        for read, before in reads
    ]
    local, reach, sent, carry = _small(decay, longer, seen)
    while blocks > 1:
        local, reach, sent, carry = _joined(local, reach, sent, carry)
        blocks //= 2
    rows = [steps * read.shape[-2] for read, _ in reads]
    columns = [steps * write.shape[-1] for write in writes]
    return Segment(
        [
            [part[..., 0, :high, :wide] for part, wide in zip(parts, columns, strict=True)]
            for parts, high in zip(local, rows, strict=True)
        ],
        [part[..., 0, :high, :] for part, high in zip(reach, rows, strict=True)],
        [part[..., 0, :, :wide] for part, wide in zip(sent, columns, strict=True)],
        Diagonal(carry),
    )


Blocks = tuple[list[list[Tensor]], list[Tensor], list[Tensor], Tensor]


def _small(decay: Tensor, writes: Sequence[Tensor], reads: Sequence[Read]) -> Blocks:
    exact = decay.to(exact_dtype(decay.dtype, decay.device))
    decay = cast(decay, dtype=writes[0].dtype)
    between = products(decay)
    reached = decay.cumprod(dim=-2)
    local, reach = [], []
    for read, before in reads:
        reading = delay(between, 1, axis=-3) if before else between
        passed = delay(reached, 1, axis=-2, fill=1.0) if before else reached
        pairs = [
            torch.einsum("...ton,...tsn,...snm->...tosm", read, reading, write) for write in writes
        ]
        local.append([pair.flatten(-2).flatten(-3, -2) for pair in pairs])
        reach.append(_rows(read * passed.unsqueeze(-2)))
    leaving = between[..., -1, :, :].unsqueeze(-1)
    carry = reduce(torch.mul, exact.unbind(dim=-2))
    return local, reach, [_columns(write * leaving) for write in writes], carry


def _joined(
    local: list[list[Tensor]], reach: list[Tensor], sent: list[Tensor], carry: Tensor
) -> Blocks:
    """Neighbouring blocks joined in pairs."""
    early, late = slice(0, None, 2), slice(1, None, 2)
    near = cast(carry, dtype=reach[0].dtype)
    passing = near[..., early, :].unsqueeze(-2)
    leaving = near[..., late, :].unsqueeze(-1)
    first = [[part[..., early, :, :] for part in parts] for parts in (reach, sent)]
    second = [[part[..., late, :, :] for part in parts] for parts in (reach, sent)]
    wider = [
        [
            _triangle(part[..., early, :, :], seen @ left, part[..., late, :, :])
            for part, left in zip(parts, first[1], strict=True)
        ]
        for parts, seen in zip(local, second[0], strict=True)
    ]
    return (
        wider,
        [torch.cat([a, b * passing], dim=-2) for a, b in zip(first[0], second[0], strict=True)],
        [torch.cat([leaving * a, b], dim=-1) for a, b in zip(first[1], second[1], strict=True)],
        carry[..., early, :] * carry[..., late, :],
    )


def _triangle(early: Tensor, between: Tensor, late: Tensor) -> Tensor:
    """Two blocks on the diagonal, ``between`` below them, zeros above."""
    top = pad(early, (0, late.shape[-1]))
    return torch.cat([top, torch.cat([between, late], dim=-1)], dim=-2)


def _spread(reading: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """A number for every pair of tokens, repeated for each pair of their ports."""
    steps = reading.shape[-1]
    outputs, inputs = rows.shape[-2] // steps, columns.shape[-1] // steps
    high = reading.repeat_interleave(outputs, -2) if outputs > 1 else reading
    return high.repeat_interleave(inputs, -1) if inputs > 1 else high


def _rows(read: Tensor) -> Tensor:
    """Reads as rows, ``(time output) x state``."""
    return read.flatten(-3, -2)


def _columns(write: Tensor) -> Tensor:
    """Writes as columns, ``state x (time input)``."""
    return write.squeeze(-1).mT if write.shape[-1] == 1 else write.movedim(-3, -2).flatten(-2)
