"""Mamba's selective scan with its gradient, compiled, as training on a processor needs it.

The reference path of transformers runs some ten operations of torch for every token. Only training
sees this: the recorded figures are those of the unmodified model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus
from transformers.models.mamba import modeling_mamba


@contextmanager
def sooner() -> Iterator[None]:
    """Let every Mamba layer of transformers scan this way."""
    with patch.object(modeling_mamba, "mamba_selective_scan", selective_scan):
        yield


def selective_scan(
    value: Tensor,
    step: Tensor,
    pole: Tensor,
    write: Tensor,
    read: Tensor,
    *,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    **_unused: object,
) -> Tensor:
    """The response of ``h_t = exp(step pole) h_{t-1} + step write value``, with skip and gate.

    Shapes are those of the library: ``value``, ``step`` and ``z`` are (batch, channel, time),
    ``pole`` is (channel, state), ``write`` and ``read`` are (batch, state, time).
    """
    step = softplus(step + delta_bias[:, None])
    by_time = (part.mT.contiguous() for part in (step, step * value, write, read))
    response = _Scan.apply(pole, *by_time)
    return (response.mT + D[:, None] * value) * silu(z)


class _Scan(torch.autograd.Function):
    """(pole, step, drive, write, read) -> response, all but the pole by batch and time."""

    @staticmethod
    def forward(ctx: Any, pole: Tensor, *by_time: Tensor) -> Tensor:
        step, drive, write, read = by_time
        decay = (step[..., None] * pole).exp()
        state, response = torch.empty_like(decay), torch.empty_like(drive)
        _forward(*(part.detach().numpy() for part in (decay, drive, write, read, state, response)))
        ctx.save_for_backward(pole, *by_time, decay, state)
        return response

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, ...]:
        parts = ctx.saved_tensors
        slopes = tuple(torch.zeros_like(part) for part in parts[:5])
        arrays = (part.detach().numpy() for part in (slope.contiguous(), *parts, *slopes))
        _backward(*arrays)
        return slopes


@numba.njit(fastmath={"contract", "reassoc"})
def _forward(decay, drive, write, read, state, response):
    samples, steps, channels, states = decay.shape
    for b in range(samples):
        for t in range(steps):
            for c in range(channels):
                total = drive.dtype.type(0)
                for n in range(states):
                    new = drive[b, t, c] * write[b, t, n]
                    if t:
                        new += decay[b, t, c, n] * state[b, t - 1, c, n]
                    state[b, t, c, n] = new
                    total += new * read[b, t, n]
                response[b, t, c] = total


@numba.njit(fastmath={"contract", "reassoc"})
def _backward(  # noqa: PLR0917  # bare arrays, one by one
    slope, pole, step, drive, write, read, decay, state, d_pole, d_step, d_drive, d_write, d_read
):
    samples, steps, channels, states = decay.shape
    carried = np.empty_like(pole)
    for b in range(samples):
        carried[:] = 0
        for t in range(steps - 1, -1, -1):
            for c in range(channels):
                to_step, to_drive = slope.dtype.type(0), slope.dtype.type(0)
                for n in range(states):
                    now = carried[c, n] + slope[b, t, c] * read[b, t, n]
                    d_read[b, t, n] += slope[b, t, c] * state[b, t, c, n]
                    d_write[b, t, n] += now * drive[b, t, c]
                    to_drive += now * write[b, t, n]
                    carried[c, n] = now * decay[b, t, c, n]
                    if t:
                        inside = carried[c, n] * state[b, t - 1, c, n]
                        to_step += inside * pole[c, n]
                        d_pole[c, n] += inside * step[b, t, c]
                d_step[b, t, c], d_drive[b, t, c] = to_step, to_drive
