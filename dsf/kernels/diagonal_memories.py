"""Matrix-valued memories with a decay for every state: see :mod:`dsf.kernels.memories`.

The decays between two tokens of a chunk differ from state to state, so pairs of tokens are summed
over the states one by one, from each token on to the end of its chunk.
"""

from typing import no_type_check

import numpy as np

from dsf.kernels.compiling import kernel
from dsf.kernels.memories import (
    CHUNK,
    _answer,
    _load,
    _look_up,
    _put_back,
    _room,
    _store,
    _take_up,
)
from dsf.kernels.products import TILE, add_product


@kernel()
@no_type_check
def diagonal_chunks(decay, gain, skip, read, look, write, signal, memory, response, before, end):
    """Whole chunks up to ``end``, heads one after the other; what heads share is stored once.

    Without a look up ``look`` is empty.
    """
    heads, _, columns = signal.shape
    states, delta = memory.shape[1], len(look) > 0
    folded = np.zeros((3, CHUNK * states), signal.dtype)
    pairs = np.zeros((2, CHUNK * CHUNK), signal.dtype)
    carry, ones = np.zeros(states), np.ones(CHUNK, signal.dtype)
    blocks = (columns + TILE - 1) // TILE
    for h in range(heads):
        g = h if len(write) > 1 else 0
        rooms = [_room(states, signal) for _ in range(blocks)]
        for b in range(blocks):
            _take_up(memory[h], b * TILE, rooms[b][0], rooms[b][1])
        for start in range(0, end, CHUNK):
            span = slice(start, start + CHUNK)
            own_look = look[h, span] if delta else read[g, span]
            _fold(decay[h, span], read[g, span], own_look, write[g, span], before, folded, carry)
            _pair(decay[h, span], read[g, span], own_look, write[g, span], before, pairs)
            for b in range(blocks):
                room = rooms[b]
                _load(signal[h], start, b * TILE, gain[h], room[2])
                if delta:
                    _look_up(folded[1], pairs[1], ones, states, room)
                _answer(folded[0], pairs[0], ones, states, room)
                _store(signal[h], start, b * TILE, skip[h], room[3], response[h])
                _update(folded[2], carry, states, room)
        for b in range(blocks):
            _put_back(memory[h], b * TILE, rooms[b][0])


@kernel()
@no_type_check
def _fold(decay, read, look, write, before, folded, carry):
    """Reads and looks times the decays from the start, writes times those to the end as columns."""
    states = len(carry)
    carry[:] = 1.0
    for i in range(CHUNK):
        at = i * states
        for n in range(states):
            earlier = carry[n]
            carry[n] = earlier * decay[i, n]
            folded[0, at + n] = read[i, n] * (earlier if before else carry[n])
            folded[1, at + n] = look[i, n] * earlier
    carry[:] = 1.0
    for i in range(CHUNK - 1, -1, -1):
        for n in range(states):
            folded[2, n * CHUNK + i] = write[i, n] * carry[n]
            carry[n] *= decay[i, n]


@kernel(reorders=True)
@no_type_check
def _pair(decay, read, look, write, before, pairs):
    """What every token reads, and what it looks up, of every earlier one of its chunk."""
    states = decay.shape[1]
    reached = np.zeros(states)
    pairs[:] = 0
    for j in range(CHUNK):
        met = 0.0
        for n in range(states):
            reached[n] = write[j, n]
            met += read[j, n] * reached[n]
        if not before:
            pairs[0, j * CHUNK + j] = met
        for i in range(j + 1, CHUNK):
            found, late, early = 0.0, 0.0, 0.0
            for n in range(states):
                earlier = reached[n]
                now = earlier * decay[i, n]
                found += look[i, n] * earlier
                early += read[i, n] * earlier
                late += read[i, n] * now
                reached[n] = now
            pairs[0, i * CHUNK + j] = early if before else late
            pairs[1, i * CHUNK + j] = found


@kernel()
@no_type_check
def _update(send, carry, states, room):
    exact, memory, entries, _, change = room
    change[:] = 0
    add_product(send, entries, states, CHUNK, change)
    for n in range(states):
        for k in range(n * TILE, (n + 1) * TILE):
            new = carry[n] * exact[k] + change[k]
            exact[k] = new
            memory[k] = new
