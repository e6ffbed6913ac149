"""What all CUDA kernels share: memory layout, launch options, and the map of every chunk alone."""

from typing import Any, no_type_check

import triton
import triton.language as tl
from jaxtyping import Float, Shaped
from torch import Tensor

# Seen in the assembler output for sm_80 and sm_90: with fewer warps registers spill, and with
# software pipelining the loop over chunks needs more shared memory than a device has.
LAUNCH: dict[str, Any] = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}


def laid(part: Shaped[Tensor, "head ..."]) -> tuple[Tensor, int]:
    """``part`` contiguous after its first axis, and the distance from head to head.

    A part that all heads share is stored once: the distance is then zero.
    """
    if part.stride(0) == 0 or len(part) == 1:
        return part[:1].contiguous(), 0
    part = part.contiguous()
    return part, part.stride(0)


def power_of_two(size: int, *, least: int = 16) -> int:
    """The smallest power of two >= ``size`` and ``least``, by default that of a matrix product."""
    return max(least, 1 << (size - 1).bit_length())


@triton.jit
@no_type_check
def vectors(part, t, n, steps, states):
    """The entries ``n`` of the tokens ``t``, zeros outside the array."""
    there = ((t >= 0) & (t < steps))[:, None] & (n < states)[None, :]
    return tl.load(part + t[:, None] * states + n[None, :], mask=there, other=0.0)


def write_pairs(
    read: Float[Tensor, "head time state"],
    write: Float[Tensor, "head time state"],
    decay: Float[Tensor, "head time decays"],
    gain: Float[Tensor, "head time"],
    out: Float[Tensor, "head rows columns"],
    *,
    chunk: int,
    before: bool,
    rows: tuple[int, int, int] | None = None,
) -> None:
    """Fill ``out`` with the map of every chunk, or with the tiles along the diagonal of a map.

    ``decay`` has one factor a token, or one for every state. With ``before`` rows read before the
    update, so their own decay and the diagonal are left out. With ``rows`` (first, last, and the
    first row of ``out``) ``out`` is a map; otherwise its columns are those of one chunk.
    """
    heads, steps, states = len(out), write.shape[1], write.shape[2]
    first, last, top = rows or (0, steps, 0)
    begin = first // chunk
    parts = [laid(part) for part in (read, write, decay, gain)]
    arrays, far = zip(*parts, strict=True)
    diagonal = decay.shape[-1] > 1
    _pairs[(heads, triton.cdiv(last, chunk) - begin)](
        *arrays,
        out,
        *far,
        out.stride(0),
        out.stride(1),
        steps,
        states,
        begin,
        first,
        last,
        top,
        across=chunk if rows else 0,
        BEFORE=before,
        DIAGONAL=diagonal,
        C=chunk,
        N=power_of_two(states) if diagonal else 32,
        **LAUNCH,
    )


@triton.jit
@no_type_check
def _pairs(
    read,
    write,
    decay,
    gain,
    out,
    read_far,
    write_far,
    decay_far,
    gain_far,
    out_far,
    width,
    steps,
    states,
    begin,
    first,
    last,
    top,
    across,
    BEFORE: tl.constexpr,
    DIAGONAL: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
):
    h = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) + begin
    i = tl.arange(0, C)
    t = c * C + i
    inside = (t >= first) & (t < last)
    place = out + h * out_far + (t - first + top).to(tl.int64) * width + c * across
    if DIAGONAL:
        n = tl.arange(0, N)
        is_state = n < states
        r = vectors(read + h * read_far, t, n, steps, states)
        factors, writes = decay + h * decay_far + n, write + h * write_far + n
        between = tl.full((C, N), 1.0, tl.float64)
        count = tl.minimum(C, steps - c * C)
        for back in range(count):
            j = count - 1 - back
            s = c * C + j
            later = tl.minimum(s + 1, steps - 1)  # not used in any row for the last token
            after = tl.load(factors + later * states, mask=is_state, other=1.0).to(tl.float64)
            between = tl.where((i - BEFORE)[:, None] > j, between * after[None, :], 1.0)
            w = tl.load(writes + s * states, mask=is_state, other=0.0)
            products = r * (between.to(tl.float32) * w[None, :])
            pairs = tl.sum(products, axis=1) * tl.load(gain + h * gain_far + s)
            tl.store(place + j, tl.where(i - BEFORE >= j, pairs, 0.0), mask=inside)
    else:
        pairs = tl.zeros((C, C), tl.float32)
        for start in range(0, states, N):
            n = start + tl.arange(0, N)
            r = vectors(read + h * read_far, t, n, steps, states)
            w = vectors(write + h * write_far, t, n, steps, states)
            pairs += tl.dot(r, tl.trans(w), input_precision="ieee")
        own = t - BEFORE
        a = tl.load(decay + h * decay_far + own, mask=(own >= 0) & (own < steps), other=1.0)
        later = (i - BEFORE)[:, None] > i[None, :]
        between = tl.cumprod(tl.where(later, a.to(tl.float64)[:, None], 1.0), 0)
        g = tl.load(gain + h * gain_far + t, mask=t < steps, other=0.0)
        pairs = pairs * (between.to(tl.float32) * g[None, :])
        pairs = tl.where((i - BEFORE)[:, None] >= i[None, :], pairs, 0.0)
        tl.store(place[:, None] + i[None, :], pairs, mask=inside[:, None] & (t < steps)[None, :])
