"""Matrix-valued memories on CUDA, chunk by chunk, as in :mod:`dsf.systems.kernels.memories`.

The maps of all chunks are computed at once by :mod:`dsf.systems.kernels.cuda.layout`; then one
program for every head and block of columns runs over the chunks, with its memory in registers in
double precision.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from dsf.systems.kernels.cuda.layout import LAUNCH, laid, power_of_two, vectors, write_pairs

WIDE, NARROW = 32, 16  # tokens of a chunk; 64 would need more shared memory than devices have
ENTRIES = 4096  # numbers of the memory in the registers of one program


def recall(
    decay: Float[Tensor, "head time decays"],
    gain: Float[Tensor, "head time"],
    write: Float[Tensor, "head time state"],
    read: Float[Tensor, "head time state"],
    look: Float[Tensor, "head time state"] | None,
    signal: Float[Tensor, "head time channel"],
    entering: Float[Tensor, "head state channel"],
    *,
    before: bool,
) -> tuple[Float[Tensor, "head time channel"], Float[Tensor, "head state channel"]]:
    """The response, and the state after the last token. All parts in single precision."""
    heads, steps, columns = signal.shape
    states, decays = write.shape[-1], decay.shape[-1]
    chunk = WIDE if look is None and decays == 1 else NARROW
    ones = torch.ones_like(gain[:1]).expand_as(gain)
    seen = signal.new_empty(heads, steps, chunk)
    write_pairs(read, write, decay, ones, seen, chunk=chunk, before=before)
    found = seen
    if look is not None:
        found = torch.empty_like(seen)
        write_pairs(look, write, decay, ones, found, chunk=chunk, before=True)
    response = torch.empty_like(signal, memory_format=torch.contiguous_format)
    leaving = torch.empty_like(entering, memory_format=torch.contiguous_format)
    looked = read if look is None else look
    parts = [laid(part) for part in (decay, gain, write, read, looked, signal, entering)]
    arrays, far = zip(*parts, strict=True)
    size = power_of_two(states)
    wide = min(64, max(16, ENTRIES // size), power_of_two(columns))
    _run_chunks[(heads, triton.cdiv(columns, wide))](
        *arrays,
        seen,
        found,
        response,
        leaving,
        *far,
        steps,
        states,
        columns,
        BEFORE=before,
        DELTA=look is not None,
        DIAGONAL=decays > 1,
        C=chunk,
        N=size,
        P=wide,
        **LAUNCH,
    )
    return response, leaving


@triton.jit
@no_type_check
def _products(decay, ahead, steps, states, n, DIAGONAL: tl.constexpr, REVERSE: tl.constexpr):
    """Running products of the decays at the tokens ``ahead``, with one column or one a state."""
    if DIAGONAL:
        known = ((ahead >= 0) & (ahead < steps))[:, None] & (n < states)[None, :]
        at = tl.where(known, ahead[:, None] * states + n[None, :], 0)
        a = tl.load(decay + at, mask=known, other=1.0)
    else:
        known = ((ahead >= 0) & (ahead < steps))[:, None]
        a = tl.load(decay + ahead[:, None], mask=known, other=1.0)
    return tl.cumprod(a.to(tl.float64), 0, reverse=REVERSE)


@triton.jit
@no_type_check
def _solved(below, entries, i, C: tl.constexpr):
    """Forward substitution with ``identity + below``, token after token."""
    for k in range(1, C):
        row = tl.sum(tl.where(i[:, None] == k, below, 0.0), axis=0)
        left = tl.sum(row[:, None] * entries, axis=0)
        entries = tl.where(i[:, None] == k, entries - left[None, :], entries)
    return entries


@triton.jit
@no_type_check
def _run_chunks(
    decay,
    gain,
    write,
    read,
    look,
    signal,
    entering,
    seen,
    found,
    response,
    leaving,
    decay_far,
    gain_far,
    write_far,
    read_far,
    look_far,
    signal_far,
    entering_far,
    steps,
    states,
    columns,
    BEFORE: tl.constexpr,
    DELTA: tl.constexpr,
    DIAGONAL: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
    P: tl.constexpr,
):
    h = tl.program_id(0).to(tl.int64)
    p = tl.program_id(1) * P + tl.arange(0, P)
    i, n = tl.arange(0, C), tl.arange(0, N)
    is_cell = (n < states)[:, None] & (p < columns)[None, :]
    cell = n[:, None] * columns + p[None, :]
    held = tl.load(entering + h * entering_far + cell, mask=is_cell, other=0.0).to(tl.float64)
    factors = decay + h * decay_far
    for start in range(0, steps, C):
        t = start + i
        stop = tl.minimum(start + C, steps)
        is_row = (t < steps)[:, None]
        has_column, place = is_row & (p < columns)[None, :], t[:, None] * columns + p[None, :]
        rounded = held.to(tl.float32)
        w = vectors(write + h * write_far, t, n, steps, states)
        r = vectors(read + h * read_far, t, n, steps, states)
        u = vectors(signal + h * signal_far, t, p, steps, columns)
        entries = u * tl.load(gain + h * gain_far + t, mask=t < steps, other=0.0)[:, None]
        # -1 for the first token: the product starts inside the chunk
        earlier = tl.where(i > 0, t - 1, -1)
        if BEFORE:
            upto = _products(factors, earlier, steps, states, n, DIAGONAL, False)
        else:
            upto = _products(factors, t, steps, states, n, DIAGONAL, False)
        pair = (h * steps + t[:, None]) * C + i[None, :]
        is_pair = is_row & (t < steps)[None, :]
        if DELTA:
            lo = vectors(look + h * look_far, t, n, steps, states)
            until = _products(factors, earlier, steps, states, n, DIAGONAL, False)
            lo = (lo * until).to(tl.float32)
            entries -= tl.dot(lo, rounded, input_precision="ieee")
            below = tl.load(found + pair, mask=is_pair, other=0.0)
            entries = _solved(below, entries, i, C)
        own = tl.load(seen + pair, mask=is_pair, other=0.0)
        y = tl.dot((r * upto).to(tl.float32), rounded, input_precision="ieee")
        y += tl.dot(own, entries, input_precision="ieee")
        tl.store(response + h * steps * columns + place, y, mask=has_column)
        later = tl.where(t + 1 < stop, t + 1, -1)
        rest = _products(factors, later, steps, states, n, DIAGONAL, True)
        change = tl.dot(tl.trans((w * rest).to(tl.float32)), entries, input_precision="ieee")
        whole = tl.where(i[:, None] == 0, rest, 0.0)
        if DIAGONAL:
            known = n < states
            least = tl.load(factors + start * states + n, mask=known, other=1.0).to(tl.float64)
        else:
            least = tl.load(factors + start).to(tl.float64)
        held = (tl.sum(whole, axis=0) * least)[:, None] * held + change
    tl.store(leaving + h * states * columns + cell, held.to(tl.float32), mask=is_cell)
