"""Matrix-valued memories, chunk by chunk: many columns share the decays, writes and reads.

    S_t = diag(decay_t) S_{t-1} + write_t x_tᵀ        y_t = S_tᵀ read_t

with ``x_t`` the signal times a gain, or, for a delta rule, what of it the memory did not hold:
``x_t = u_t - S_{t-1}ᵀ look_t``. A chunk is a few small matrix products on 64 columns at a time.
Decays are only multiplied, in float64; the memory is kept in float64 from chunk to chunk.
"""

from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel
from dsf.kernels.products import TILE, add_product, add_triangle, solve_unit_triangle

CHUNK = 32


@kernel()
@no_type_check
def scalar_chunks(
    decay, gain, skip, read, look, send, seen, held, signal, memory, response, before, begin
):
    """The chunks from the token ``begin`` on; one decay a token, heads one after the other.

    ``seen`` and ``held`` are the products of reads and of looks with writes, pair by pair, and
    ``send`` holds the writes of every chunk as columns. What heads share is stored once. Without
    ``look``, ``held`` is empty.
    """
    heads, _, columns = signal.shape
    states, delta = memory.shape[1], len(held) > 0
    own, below = np.zeros(CHUNK * CHUNK, signal.dtype), np.zeros(CHUNK * CHUNK, signal.dtype)
    scales = np.zeros((3, CHUNK), signal.dtype)
    room = _room(states, signal)
    for h in range(heads):
        g = h if len(send) > 1 else 0
        for first in range(0, columns, TILE):
            _take_up(memory[h], first, room[0], room[1])
            for c in range(send.shape[1]):
                start = begin + c * CHUNK
                carry = _gaps(decay[h], start, seen[g, c], held, g, c, before, own, below, scales)
                rows = slice(start, start + CHUNK)
                _load(signal[h], start, first, gain[h], room[2])
                if delta:
                    _look_up(look[g, rows].ravel(), below, scales[1], states, room)
                _answer(read[g, rows].ravel(), own, scales[0], states, room)
                _store(signal[h], start, first, skip[h], room[3], response[h])
                _scale(room[2], scales[2])
                _update(send[g, c].ravel(), carry, states, room)
            _put_back(memory[h], first, room[0])


@kernel()
@no_type_check
def _room(states, like):
    """Memory, its rounded copy, entries, answers, changes: each for ``TILE`` columns."""
    return (
        np.zeros(states * TILE),
        np.zeros(states * TILE, like.dtype),
        np.zeros(CHUNK * TILE, like.dtype),
        np.zeros(CHUNK * TILE, like.dtype),
        np.zeros(states * TILE, like.dtype),
    )


@kernel()
@no_type_check
def _gaps(decay, start, seen, held, g, c, before, own, below, scales):
    """Pairs times the decays between; decays from the start, before a token, and to the end."""
    own[:] = 0
    running = 1.0
    for i in range(CHUNK):
        scales[1, i] = running
        running *= decay[start + i]
        scales[0, i] = scales[1, i] if before else running
    carry = running
    running = 1.0
    for i in range(CHUNK - 1, -1, -1):
        scales[2, i] = running
        running *= decay[start + i]
    for j in range(CHUNK):
        running = 1.0
        if not before:
            own[j * CHUNK + j] = seen[j, j]
        for i in range(j + 1, CHUNK):
            earlier = running
            running *= decay[start + i]
            own[i * CHUNK + j] = seen[i, j] * (earlier if before else running)
            if len(held):
                below[i * CHUNK + j] = held[g, c, i, j] * earlier
    return carry


@kernel()
@no_type_check
def _load(signal, start, first, gain, entries):
    """The signal times its gain; zeros where there are fewer columns than ``TILE``."""
    if start < 0 or first < 0:
        return
    wide = min(TILE, signal.shape[1] - first)
    for i in range(CHUNK):
        factor = gain[start + i]
        for j in range(wide):
            entries[i * TILE + j] = factor * signal[start + i, first + j]


@kernel()
@no_type_check
def _look_up(look, below, scale, states, room):
    """Take away what the memory holds, of earlier chunks and of earlier entries of this one."""
    _, memory, entries, answers, _ = room
    answers[:] = 0
    add_product(look, memory, CHUNK, states, answers)
    for i in range(CHUNK):
        for j in range(TILE):
            entries[i * TILE + j] -= scale[i] * answers[i * TILE + j]
    solve_unit_triangle(below, CHUNK, entries)


@kernel()
@no_type_check
def _answer(read, own, scale, states, room):
    _, memory, entries, answers, _ = room
    answers[:] = 0
    add_product(read, memory, CHUNK, states, answers)
    _scale(answers, scale)
    add_triangle(own, entries, CHUNK, answers)


@kernel()
@no_type_check
def _scale(rows, scale):
    for i in range(CHUNK):
        for j in range(TILE):
            rows[i * TILE + j] *= scale[i]


@kernel()
@no_type_check
def _store(signal, start, first, skip, answers, response):
    if start < 0 or first < 0:
        return
    wide = min(TILE, signal.shape[1] - first)
    for i in range(CHUNK):
        for j in range(wide):
            passed = skip * signal[start + i, first + j]
            response[start + i, first + j] = answers[i * TILE + j] + passed


@kernel()
@no_type_check
def _update(send, carry, states, room):
    exact, memory, entries, _, change = room
    change[:] = 0
    add_product(send, entries, states, CHUNK, change)
    for k in range(states * TILE):
        new = carry * exact[k] + change[k]
        exact[k] = new
        memory[k] = new


@kernel()
@no_type_check
def _take_up(memory, first, exact, rounded):
    for n in range(len(memory)):
        for j in range(min(TILE, memory.shape[1] - first)):
            exact[n * TILE + j] = memory[n, first + j]
            rounded[n * TILE + j] = memory[n, first + j]


@kernel()
@no_type_check
def _put_back(memory, first, exact):
    for n in range(len(memory)):
        for j in range(min(TILE, memory.shape[1] - first)):
            memory[n, first + j] = exact[n * TILE + j]
