"""Panels of systems whose A_t is diagonal or a scaled identity, by running products of decays.

Nothing here divides by a product of decays or takes ``exp`` of a long difference: decays are only
multiplied, from each token to the tokens after it, so zeros and violent decays are exact.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate.panel import Panel
from dsf.transition import Diagonal, ScaledIdentity
from dsf.transition.timeline import delay

SMALL = 8


def products(
    decay: Shaped[Tensor, "*batch time width"],
) -> Shaped[Tensor, "*batch time time width"]:
    """``decay`` multiplied over ``s + 1 ... t`` at ``[t, s]``; zero where ``s > t``."""
    steps = decay.shape[-2]
    token = torch.arange(steps, device=decay.device)
    later = (token[:, None] > token).unsqueeze(-1)
    running = torch.where(later, decay.unsqueeze(-2), 1).cumprod(dim=-3)
    return torch.where((token[:, None] >= token).unsqueeze(-1), running, 0)


def scalar_panel(
    decay: Shaped[Tensor, "*batch time"],
    write: Shaped[Tensor, "*batch time state input"],
    read: Shaped[Tensor, "*batch time output state"],
    *,
    before: bool,
) -> Panel:
    """The panel of ``A_t = decay_t I``: a product of reads and writes, times the decay between."""
    between = products(decay.unsqueeze(-1)).squeeze(-1)
    reached = decay.cumprod(dim=-1)
    reading, passed = between, reached
    if before:
        reading = delay(between, 1, axis=-2)
        passed = delay(reached, 1, axis=-1, fill=1.0)
    outputs, inputs = read.shape[-2], write.shape[-1]
    rows, columns = _rows(read), _columns(write)
    local = rows @ columns
    spread = reading.repeat_interleave(outputs, -2) if outputs > 1 else reading
    spread = spread.repeat_interleave(inputs, -1) if inputs > 1 else spread
    return Panel(
        local=local * spread,
        reach=_rows(read * passed[..., None, None]),
        write=_columns(write * between[..., -1, :, None, None]),
        carry=ScaledIdentity(reached[..., -1:], write.shape[-2]),
    )


def diagonal_panel(
    decay: Shaped[Tensor, "*batch time state"],
    write: Shaped[Tensor, "*batch time state input"],
    read: Shaped[Tensor, "*batch time output state"],
    *,
    before: bool,
) -> Panel:
    """The panel of ``A_t = diag(decay_t)``.

    Products of decays between all pairs are formed for 8 tokens only; twice as many tokens come
    from two halves by matrix products, as often as needed.
    """
    steps = decay.shape[-2]
    blocks = 1
    while blocks * SMALL < steps:
        blocks *= 2
    missing = blocks * SMALL - steps if blocks > 1 else 0
    decay = torch.nn.functional.pad(decay, (0, 0, 0, missing), value=1.0)
    write = torch.nn.functional.pad(write, (0, 0, 0, 0, 0, missing))
    read = torch.nn.functional.pad(read, (0, 0, 0, 0, 0, missing))
    split = [
        part.unflatten(axis, (blocks, -1)) for part, axis in ((decay, -2), (write, -3), (read, -3))
    ]
    local, reach, sent, carry = _small(*split, before=before)
    while local.shape[-3] > 1:
        local, reach, sent, carry = _joined(local, reach, sent, carry)
    rows, columns = steps * read.shape[-2], steps * write.shape[-1]
    return Panel(
        local=local[..., 0, :rows, :columns],
        reach=reach[..., 0, :rows, :],
        write=sent[..., 0, :, :columns],
        carry=Diagonal(carry),
    )


def _small(
    decay: Tensor, write: Tensor, read: Tensor, *, before: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    between = products(decay)
    reached = decay.cumprod(dim=-2)
    reading, passed = between, reached
    if before:
        reading = delay(between, 1, axis=-3)
        passed = delay(reached, 1, axis=-2, fill=1.0)
    local = torch.einsum("...ton,...tsn,...snm->...tosm", read, reading, write)
    return (
        local.flatten(-2).flatten(-3, -2),
        _rows(read * passed.unsqueeze(-2)),
        _columns(write * between[..., -1, :, :].unsqueeze(-1)),
        reached[..., -1, :],
    )


def _joined(
    local: Tensor, reach: Tensor, sent: Tensor, carry: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every two neighbouring blocks made one."""
    early, late = slice(0, None, 2), slice(1, None, 2)
    below = reach[..., late, :, :] @ sent[..., early, :, :]
    above = torch.zeros_like(below)
    top = torch.cat([local[..., early, :, :], above], dim=-1)
    bottom = torch.cat([below, local[..., late, :, :]], dim=-1)
    passing = carry[..., early, :].unsqueeze(-2)
    leaving = carry[..., late, :].unsqueeze(-1)
    return (
        torch.cat([top, bottom], dim=-2),
        torch.cat([reach[..., early, :, :], reach[..., late, :, :] * passing], dim=-2),
        torch.cat([leaving * sent[..., early, :, :], sent[..., late, :, :]], dim=-1),
        carry[..., early, :] * carry[..., late, :],
    )


def _rows(read: Tensor) -> Tensor:
    """Reads as rows, ``(time output) x state``."""
    return read.flatten(-3, -2)


def _columns(write: Tensor) -> Tensor:
    """Writes as columns, ``state x (time input)``."""
    return write.movedim(-3, -2).flatten(-2)
