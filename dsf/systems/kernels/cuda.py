"""The scan of a selective state space (Mamba) on CUDA in Triton, with states in registers only.

    h_t = exp(step_t pole) h_{t-1} + step_t write_t u_t        y_t = read_t . h_t + skip u_t

Plain tensors in single precision; decays and states are in double precision. This file imports
triton, so it is imported only where it is used.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

CHANNELS = 16


def selective_scan(
    step: Float[Tensor, "sequence channel time"],
    value: Float[Tensor, "sequence channel time"],
    pole: Float[Tensor, "sequence channel state"],
    write: Float[Tensor, "sequence time state"],
    read: Float[Tensor, "sequence time state"],
    entering: Float[Tensor, "sequence channel state"],
) -> tuple[Float[Tensor, "sequence channel time"], Float[Tensor, "sequence channel state"]]:
    """The response without feedthrough, and the state after the last token."""
    sequences, channels, steps = value.shape
    states = pole.shape[-1]
    parts = (step.mT, value.mT, pole, write, read, entering)
    arrays = [part.contiguous() for part in parts]
    response, leaving = torch.empty_like(arrays[1]), torch.empty_like(arrays[-1])
    _scan[(sequences, triton.cdiv(channels, CHANNELS))](
        *arrays,
        response,
        leaving,
        channels,
        steps,
        states,
        D=CHANNELS,
        N=triton.next_power_of_2(states),
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=True,
    )
    return response.mT, leaving


@triton.jit
@no_type_check
def _decay(x):
    """``exp(x)`` in double precision; near zero ``exp(x) - 1`` keeps single-precision digits."""
    less = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    near = 1.0 + (x * less).to(tl.float64)
    return tl.where(tl.abs(x) < 0.25, near, tl.exp(x).to(tl.float64))


@triton.jit
@no_type_check
def _scan(
    step,
    value,
    pole,
    write,
    read,
    entering,
    response,
    leaving,
    channels,
    steps,
    states,
    D: tl.constexpr,
    N: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * D + tl.arange(0, D)
    n = tl.arange(0, N)
    is_channel, is_state = d < channels, n < states
    both = is_channel[:, None] & is_state[None, :]
    at = b * channels * states + d[:, None] * states + n[None, :]
    poles = tl.load(pole + at, mask=both, other=0.0)
    held = tl.load(entering + at, mask=both, other=0.0).to(tl.float64)
    line, port = b * steps * channels + d, b * steps * states + n
    for _ in range(steps):
        size = tl.load(step + line, mask=is_channel, other=0.0)
        u = tl.load(value + line, mask=is_channel, other=0.0)
        w = tl.load(write + port, mask=is_state, other=0.0)
        r = tl.load(read + port, mask=is_state, other=0.0)
        drive = (size * u)[:, None] * w[None, :]
        held = _decay(size[:, None] * poles) * held + drive
        y = tl.sum(held.to(tl.float32) * r[None, :], axis=1)
        tl.store(response + line, y, mask=is_channel)
        line += channels
        port += states
    tl.store(leaving + at, held.to(tl.float32), mask=both)
