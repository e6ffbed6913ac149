"""The scan of a selective state space (Mamba) on CUDA in Triton, with states in registers only.

    h_t = exp(step_t pole) h_{t-1} + step_t write_t u_t        y_t = read_t . h_t + skip u_t

Plain tensors in single precision; decays and states are in double precision. This file imports
triton, so it is imported only where it is used.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Shaped
from torch import Tensor


def laid(part: Shaped[Tensor, "head ..."]) -> tuple[Tensor, int]:
    """``part`` contiguous after its first axis, and the distance from head to head.

    A part that all heads share is stored once: the distance is then zero.
    """
    if part.stride(0) == 0 or len(part) == 1:
        return part[:1].contiguous(), 0
    part = part.contiguous()
    return part, part.stride(0)


CHANNELS = 16


def selective_scan(
    step: Float[Tensor, "sequence channel time"],
    value: Float[Tensor, "sequence channel time"],
    pole: Float[Tensor, "sequence channel state"],
    write: Float[Tensor, "sequence time state"],
    read: Float[Tensor, "sequence time state"],
    skip: Float[Tensor, "sequence channel"],
    entering: Float[Tensor, "sequence channel state"],
) -> tuple[Float[Tensor, "sequence channel time"], Float[Tensor, "sequence channel state"]]:
    """The response, and the state after the last token. All parts in single precision.

    ``step`` and ``value`` may have any memory layout, and the response has that of ``value``; with
    contiguous channels memory accesses are coalesced.
    """
    sequences, channels, steps = value.shape
    states = pole.shape[-1]
    response = torch.empty_like(value)
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    parts = [laid(part) for part in (pole, write, read, skip, entering)]
    arrays, far = zip(*parts, strict=True)
    _scan[(sequences, triton.cdiv(channels, CHANNELS))](
        step,
        value,
        response,
        *arrays,
        leaving,
        *step.stride(),
        *value.stride(),
        *response.stride(),
        *far,
        channels,
        steps,
        states,
        D=CHANNELS,
        N=triton.next_power_of_2(states),
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=True,
    )
    return response, leaving


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
    response,
    pole,
    write,
    read,
    skip,
    entering,
    leaving,
    step_far,
    step_channel,
    step_time,
    value_far,
    value_channel,
    value_time,
    response_far,
    response_channel,
    response_time,
    pole_far,
    write_far,
    read_far,
    skip_far,
    entering_far,
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
    at = d[:, None] * states + n[None, :]
    poles = tl.load(pole + b * pole_far + at, mask=both, other=0.0)
    held = tl.load(entering + b * entering_far + at, mask=both, other=0.0).to(tl.float64)
    passed = tl.load(skip + b * skip_far + d, mask=is_channel, other=0.0)
    wide = d.to(tl.int64)
    sizes = step + b * step_far + wide * step_channel
    values = value + b * value_far + wide * value_channel
    responses = response + b * response_far + wide * response_channel
    writes, reads = write + b * write_far + n, read + b * read_far + n
    for t in range(steps):
        size = tl.load(sizes, mask=is_channel, other=0.0)
        u = tl.load(values, mask=is_channel, other=0.0)
        w = tl.load(writes + t * states, mask=is_state, other=0.0)
        r = tl.load(reads + t * states, mask=is_state, other=0.0)
        drive = (size * u)[:, None] * w[None, :]
        held = _decay(size[:, None] * poles) * held + drive
        y = tl.sum(held.to(tl.float32) * r[None, :], axis=1) + passed * u
        tl.store(responses, y, mask=is_channel)
        sizes += step_time
        values += value_time
        responses += response_time
    tl.store(leaving + b * channels * states + at, held.to(tl.float32), mask=both)
