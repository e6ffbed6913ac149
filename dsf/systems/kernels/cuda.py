"""CUDA kernels in Triton on plain tensors in single precision: maps, memories, selective scans.

Products of decays and states are in double precision; matrix products are in full single precision
(no TF32). All products of decays run forward, so decays of zero or near zero lose no accuracy. This
file imports triton, so it is imported only where it is used.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

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


@triton.jit
@no_type_check
def _pairs(
    read,
    write,
    decay,
    out,
    read_far,
    write_far,
    decay_far,
    out_far,
    steps,
    states,
    begin,
    first,
    last,
    top,
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
    place = out + h * out_far + (t - first + top).to(tl.int64) * steps + c * C
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
            pairs = tl.sum(products, axis=1)
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
        pairs = pairs * between.to(tl.float32)
        pairs = tl.where((i - BEFORE)[:, None] >= i[None, :], pairs, 0.0)
        tl.store(place[:, None] + i[None, :], pairs, mask=inside[:, None] & (t < steps)[None, :])


TILE, STATES = 64, 32


class Borders:
    """Running products of decays up to the edges of tiles.

    Attributes:
        reach: from the start of its tile up to a token, its own decay included unless ``before``.
        sent: after a token up to the end of its tile.
        product: over whole tiles, in double precision.
    """

    def __init__(self, decay: Float[Tensor, "head time decays"], *, before: bool) -> None:
        heads, steps, decays = decay.shape
        padded = pad(decay, (0, 0, 0, -steps % TILE), value=1.0).double()
        tiles = padded.view(heads, -1, TILE, decays)
        upto = tiles.cumprod(2)
        self.product = upto[:, :, -1].contiguous()
        shifted = pad(upto[:, :, :-1], (0, 0, 1, 0), value=1.0)
        self.reach = (shifted if before else upto).to(decay.dtype)
        behind = pad(tiles.flip(2).cumprod(2)[:, :, :-1], (0, 0, 1, 0), value=1.0)
        self.sent = behind.flip(2).to(decay.dtype).contiguous()


def write_map(
    read: Float[Tensor, "head time state"],
    write: Float[Tensor, "head time state"],
    decay: Float[Tensor, "head time decays"],
    borders: Borders,
    out: Float[Tensor, "head rows time"],
    *,
    rows: tuple[int, int, int],
    before: bool,
) -> None:
    """Write rows of maps without feedthrough.

    ``rows`` are the first row, the row after the last, and the first row of ``out``. Everything is
    in single precision; ``out`` is contiguous and must be zero above the diagonal beforehand.
    """
    first, last, top = rows
    steps, states = write.shape[1:]
    begin, end = first // TILE, triton.cdiv(last, TILE)
    diagonal = decay.shape[-1] > 1
    parts = [laid(part) for part in (read, write, decay)]
    arrays, far = zip(*parts, strict=True)
    _pairs[(len(out), end - begin)](
        *arrays,
        out,
        *far,
        out.stride(0),
        steps,
        states,
        begin,
        first,
        last,
        top,
        BEFORE=before,
        DIAGONAL=diagonal,
        C=TILE,
        N=power_of_two(states) if diagonal else STATES,
        **LAUNCH,
    )
    if end < 2:
        return
    parts = [laid(part) for part in (read, write)]
    arrays, far = zip(*parts, strict=True)
    _far[(len(out), end - begin, end - 1)](
        *arrays,
        borders.reach,
        borders.sent,
        borders.product,
        out,
        *far,
        borders.product.shape[1],
        steps,
        states,
        begin,
        first,
        last,
        top,
        out.stride(0),
        DIAGONAL=diagonal,
        C=TILE,
        N=STATES,
        **LAUNCH,
    )


@triton.jit
@no_type_check
def _far(
    read,
    write,
    reach,
    sent,
    product,
    out,
    read_far,
    write_far,
    tiles,
    steps,
    states,
    begin,
    first,
    last,
    top,
    out_far,
    DIAGONAL: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
):
    h, own, earlier = tl.program_id(0).to(tl.int64), tl.program_id(1) + begin, tl.program_id(2)
    if earlier >= own:
        return
    i = tl.arange(0, C)
    t, s = own * C + i, earlier * C + i
    decays = states if DIAGONAL else 1
    weights = tl.zeros((C, C), tl.float32)
    for start in range(0, states, N):
        n = start + tl.arange(0, N)
        m = n if DIAGONAL else n * 0
        known = n < states
        gap = tl.full((N,), 1.0, tl.float64)
        for tile in range(earlier + 1, own):
            gap *= tl.load(product + (h * tiles + tile) * decays + m, mask=known, other=1.0)
        there = (t < steps)[:, None] & known[None, :]
        shift = h * tiles * C
        up = tl.load(reach + (shift + t[:, None]) * decays + m[None, :], mask=there, other=0.0)
        r = vectors(read + h * read_far, t, n, steps, states)
        r = (r * (up * gap[None, :])).to(tl.float32)
        seen = known[None, :]
        behind = tl.load(sent + (shift + s[:, None]) * decays + m[None, :], mask=seen, other=0.0)
        w = vectors(write + h * write_far, s, n, steps, states)
        weights += tl.dot(r, tl.trans(w * behind), input_precision="ieee")
    place = out + h * out_far + (t - first + top)[:, None].to(tl.int64) * steps + s[None, :]
    tl.store(place, weights, mask=((t >= first) & (t < last))[:, None])


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
        N=power_of_two(states, least=1),
        **LAUNCH | {"num_warps": 4},
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
