"""The scan of a selective state space, with nothing written out.

    h_t = exp(step_t pole) h_{t-1} + step_t write_t u_t        y_t = read_t . h_t + skip u_t

for many channels with one diagonal each, which share ``write`` and ``read``. Channels go side by
side in blocks, so that the states of a block stay in the cache while time runs.
"""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from dsf.kernels.adapted import UNIT
from dsf.kernels.compiling import kernel
from dsf.kernels.exponentials import ZERO, power_of_two
from dsf.kernels.prefetching import LINE, soon_read, soon_written
from dsf.kernels.slow_states import (
    BLOCK,
    DRIVE,
    GENTLE,
    GROUP,
    LIVELY,
    MILD,
    POLE,
    ROW,
    STEP,
    SUM,
    U_BLOCK,
    U_POLE,
    any_update,
    gentle_update,
    lively_update,
    mild_update,
)
from dsf.kernels.spreading import in_parallel

# Tokens of one block in a row, and how far ahead of itself a loop asks for memory.
SPAN, AHEAD = 128, np.uint64(2)
INFINITE = np.uint32(0x7F800000)


def selective_scan(
    step: Float[Tensor, "time channel"],
    value: Float[Tensor, "time channel"],
    pole: Float[Tensor, "channel state"],
    write: Float[Tensor, "time state"],
    read: Float[Tensor, "time state"],
    skip: Float[Tensor, " channel"],
    entering: Float[Tensor, "channel state"],
    *,
    into: tuple[Float[Tensor, "time channel"], Float[Tensor, "channel state"]],
) -> None:
    """Write the response, and the state after the last token, ``into`` two tensors.

    All parts are of one real number type; the response lies in memory token after token.
    """
    states = pole.shape[-1]
    more = -states % GROUP
    unit = UNIT if step.dtype == torch.float32 else 1.0
    bases = (pole.double() * (np.log2(np.e) * unit)).to(pole.dtype)
    rows, start = (pad(part, (0, more)).mT.contiguous().clone() for part in (bases, entering))
    ports = (pad(part, (0, more)).flatten() for part in (write, read))
    response, leaving = into
    parts = (step.contiguous(), value.contiguous(), rows, *ports, skip.contiguous())
    arrays = [part.detach().numpy() for part in (*parts, start, response)]
    channels = value.shape[-1]
    scan, share = _scan_double, BLOCK
    if step.dtype == torch.float32:
        scan, share = _scan_single, BLOCK * -(-channels // (BLOCK * torch.get_num_threads()))

    def run(first: int) -> None:
        scan(first, min(first + share, channels), *arrays)

    in_parallel(run, range(0, channels, share))
    leaving.copy_(start[:states].mT)


@kernel()
@no_type_check
def _aligned(size, like):
    """Zeros that begin at a border of the cache's lines."""
    room = np.zeros(size + 16, like.dtype)
    skipped = (-room.ctypes.data // like.itemsize) % 16
    return room[skipped : skipped + size]


@kernel(inlined=True)
@no_type_check
def _load(row, token, begin, width, step, value, skip):
    """Steps, drives and skipped signals of one token; the longest step, nan if one is negative."""
    # Integers order the bits of numbers that are not negative, and put nan and negative ones last.
    longest = np.uint32(0)
    for d in range(width):
        each, given = step[token, begin + d], value[token, begin + d]
        row[d] = each
        row[U_BLOCK + d] = each * given
        row[U_POLE + d] = skip[begin + d] * given
        longest = max(longest, np.float32(each).view(np.uint32))
    return np.uint32(longest).view(np.float32) if longest <= INFINITE else np.float32(np.nan)


@kernel(inlined=True)
@no_type_check
def _ask(token, begin, step, value, response):
    """Have the memory of a later token brought near."""
    for d in range(0, BLOCK, LINE // 4):
        soon_read(step, token, begin + np.uint64(d))
        soon_read(value, token, begin + np.uint64(d))
        soon_written(response, token, begin + np.uint64(d))


@kernel()
@no_type_check
def _enter(cell, least, first, last, pole, state):
    """States and poles of a block, and of every group the fastest pole; nan for a growing one."""
    for n in range(len(pole)):
        for d in range(last - first):
            each, low = pole[n, first + d], least[n // GROUP]
            cell[n * ROW + d], cell[n * ROW + POLE + d] = state[n, first + d], each
            least[n // GROUP] = min(low, each) if each <= ZERO and low <= ZERO else np.nan


@kernel()
@no_type_check
def _run(cell, least, row, start, stop, first, last, step, value, write, read, skip, response):
    """Some tokens of a block, each group of states in the shortest form that its decays allow."""
    states, begin, width = len(least) * GROUP, np.uint64(first), np.uint64(last - first)
    for t in range(start, stop):
        token = np.uint64(t)
        _ask(token + AHEAD, begin, step, value, response)
        longest = _load(row, token, begin, width, step, value, skip)
        for group in range(len(least)):
            lowest, at = longest * least[group], np.uint64(group * GROUP * ROW)
            n = np.uint64(t * states + group * GROUP)
            if lowest >= MILD:
                mild_update(cell, at, row, write, read, n)
            elif lowest >= GENTLE:
                gentle_update(cell, at, row, write, read, n)
            elif lowest >= LIVELY:
                lively_update(cell, at, row, write, read, n)
            else:
                any_update(cell, at, row, write, read, n)
        for d in range(width):
            response[token, begin + d] = row[U_POLE + d]


@kernel()
@no_type_check
def _scan_single(begin, end, step, value, pole, write, read, skip, state, response):
    if begin < 0:
        return
    states, blocks = len(pole), (end - begin + BLOCK - 1) // BLOCK
    cells = _aligned(blocks * states * ROW, step).reshape(blocks, states * ROW)
    least = np.zeros((blocks, states // GROUP), step.dtype)
    row = _aligned(ROW, step)
    for k in range(blocks):
        first = begin + k * BLOCK
        _enter(cells[k], least[k], first, min(first + BLOCK, end), pole, state)
    for start in range(0, len(step), SPAN):
        stop = min(start + SPAN, len(step))
        for k in range(blocks):
            first, last = begin + k * BLOCK, min(begin + (k + 1) * BLOCK, end)
            _run(
                cells[k],
                least[k],
                row,
                start,
                stop,
                first,
                last,
                step,
                value,
                write,
                read,
                skip,
                response,
            )
    for c in range(begin, end):
        for n in range(states):
            state[n, c] = cells[(c - begin) // BLOCK, n * ROW + (c - begin) % BLOCK]


@kernel()
@no_type_check
def _scan_double(first, last, step, value, pole, write, read, skip, state, response):
    if first < 0:
        return
    cell = np.zeros((len(pole), BLOCK))
    token = np.zeros(ROW)
    for n in range(len(pole)):
        for d in range(last - first):
            cell[n, d] = state[n, first + d]
    for t in range(len(step)):
        for d in range(last - first):
            token[STEP + d] = step[t, first + d]
            token[DRIVE + d] = step[t, first + d] * value[t, first + d]
            token[SUM + d] = skip[first + d] * value[t, first + d]
        for n in range(len(pole)):
            w, r = write[t * len(pole) + n], read[t * len(pole) + n]
            for d in range(last - first):
                decay = power_of_two(token[STEP + d] * pole[n, first + d])
                new = decay * cell[n, d] + w * token[DRIVE + d]
                cell[n, d] = new
                token[SUM + d] += r * new
        for d in range(last - first):
            response[t, first + d] = token[SUM + d]
    for n in range(len(pole)):
        for d in range(last - first):
            state[n, first + d] = cell[n, d]
