"""Matrix-valued memories on the CPU, chunk by chunk: linear attention and delta rules."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from dsf.runtime.threads import in_parallel, shares
from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    ahead,
    lanes,
    loaded,
    pointers,
    product_and_sum,
    spread,
    store,
)

TILE = 64


@kernel(inlined=True)
def _add_rows(left, right, inner, out, across, along):
    """Four rows of a product, ``TILE`` columns wide; sums stay in registers over ``inner``.

    In ``left`` rows are ``across`` numbers apart, and the numbers of a row ``along``.
    """
    wide = lanes(out)
    for c in range(0, TILE, 4 * wide):
        first, second = loaded(out, c, wide), loaded(out, TILE + c, wide)
        third, fourth = loaded(out, 2 * TILE + c, wide), loaded(out, 3 * TILE + c, wide)
        for n in range(inner):
            row, at = loaded(right, n * TILE + c, wide), n * along
            a, b = spread(left, at), spread(left, at + across)
            c_, d = spread(left, at + 2 * across), spread(left, at + 3 * across)
            first = product_and_sum((a, a, a, a), row, first)
            second = product_and_sum((b, b, b, b), row, second)
            third = product_and_sum((c_, c_, c_, c_), row, third)
            fourth = product_and_sum((d, d, d, d), row, fourth)
        for k in range(4):
            store(out, c + k * wide, first[k])
            store(out, TILE + c + k * wide, second[k])
            store(out, 2 * TILE + c + k * wide, third[k])
            store(out, 3 * TILE + c + k * wide, fourth[k])


@kernel()
def add_product(left, right, rows, inner, out):
    """``out += left @ right``: ``rows x inner`` and ``inner x TILE``, rows a multiple of four."""
    given, table, sums = pointers(left), pointers(right), pointers(out)
    for i in range(0, rows, 4):
        _add_rows(ahead(given, i * inner), table, inner, ahead(sums, i * TILE), inner, 1)


@kernel()
def add_transposed(left, right, rows, inner, out):
    """``out += left.T @ right`` for ``left`` of ``inner x rows``, rows a multiple of four."""
    given, table, sums = pointers(left), pointers(right), pointers(out)
    for i in range(0, rows, 4):
        _add_rows(ahead(given, i), table, inner, ahead(sums, i * TILE), 1, rows)


@kernel()
def add_triangle(left, right, rows, out):
    """``out += left @ right`` for a ``rows x rows`` matrix that is zero above the diagonal."""
    given, table, sums = pointers(left), pointers(right), pointers(out)
    for i in range(0, rows, 4):
        _add_rows(ahead(given, i * rows), table, i + 4, ahead(sums, i * TILE), rows, 1)


@kernel()
def solve_unit_triangle(below, rows, columns):
    """Solve ``(identity - below) x = columns`` in place, ``below`` strictly lower triangular."""
    given, found = pointers(below), pointers(columns)
    for i in range(0, rows, 4):
        at = i * TILE
        _add_rows(ahead(given, i * rows), found, i, ahead(found, at), rows, 1)
        for k in range(1, 4):
            for m in range(k):
                factor, to, of = below[(i + k) * rows + i + m], at + k * TILE, at + m * TILE
                for j in range(TILE):
                    columns[to + j] += factor * columns[of + j]


CHUNK = 32


@kernel()
def scalar_chunks(decay, gain, skip, read, send, seen, signal, memory, response, before, begin):
    """The chunks from token ``begin`` on, with one decay a token, heads one after the other.

    ``seen`` are the products of reads with writes for every pair of tokens of a chunk, and ``send``
    holds the writes of every chunk. Arrays that heads share are stored once.
    """
    heads, _, columns = signal.shape
    states, own = memory.shape[1], np.zeros(CHUNK * CHUNK, signal.dtype)
    scales, carry = np.zeros((2, CHUNK), signal.dtype), np.zeros(states)
    room = _buffers(states, signal)
    for h in range(heads):
        g = h if len(send) > 1 else 0
        for first in range(0, columns, TILE):
            _load_memory(memory[h], first, room[0], room[1])
            for c in range(send.shape[1]):
                start = begin + c * CHUNK
                carry[:] = _gaps(decay[h], start, seen[g, c], before, own, scales)
                rows = slice(start, start + CHUNK)
                _load(signal[h], start, first, gain[h], room[2])
                _answer(read[g, rows].ravel(), own, scales[0], states, room)
                _store(signal[h], start, first, skip[h], room[3], response[h])
                _scale(room[2], scales[1])
                room[4][:] = 0
                _update(send[g, c].ravel(), carry, states, room)
            _store_memory(memory[h], first, room[0])


@kernel()
def _buffers(states, like):
    """Buffers of ``TILE`` columns."""
    return (
        np.zeros(states * TILE),
        np.zeros(states * TILE, like.dtype),
        np.zeros(CHUNK * TILE, like.dtype),
        np.zeros(CHUNK * TILE, like.dtype),
        np.zeros(states * TILE, like.dtype),
        np.zeros(CHUNK * TILE, like.dtype),
    )


@kernel()
def _gaps(decay, start, seen, before, own, scales):
    """Multiply pairs by the decays between them, and compute two decays of every token.

    ``scales`` are the decays from the start of the chunk to the read, and from the token to the
    end. Returns the product of all decays of the chunk.
    """
    own[:] = 0
    running = 1.0
    for i in range(CHUNK):
        earlier = running
        running *= decay[start + i]
        scales[0, i] = earlier if before else running
    carry = running
    running = 1.0
    for i in range(CHUNK - 1, -1, -1):
        scales[1, i] = running
        running *= decay[start + i]
    for j in range(CHUNK):
        running = 1.0
        if not before:
            own[j * CHUNK + j] = seen[j, j]
        for i in range(j + 1, CHUNK):
            earlier = running
            running *= decay[start + i]
            own[i * CHUNK + j] = seen[i, j] * (earlier if before else running)
    return carry


@kernel()
def _load(signal, start, first, gain, entries):
    """The signal times its gain, with zeros in columns beyond the last."""
    if start < 0 or first < 0:
        return
    wide = min(TILE, signal.shape[1] - first)
    for i in range(CHUNK):
        factor = gain[start + i]
        for j in range(wide):
            entries[i * TILE + j] = factor * signal[start + i, first + j]


@kernel()
def _look_up(look, below, states, room):
    """Subtract what the memory returns at ``look``, from earlier chunks and from this one."""
    _, memory, entries, answers, _, _ = room
    answers[:] = 0
    add_product(look, memory, CHUNK, states, answers)
    entries -= answers
    solve_unit_triangle(below, CHUNK, entries)


@kernel()
def _return(look, seen, again, states, room):
    """What the memory returns at ``look``, with what the chunk wrote and returned before."""
    _, memory, entries, _, _, returned = room
    returned[:] = 0
    add_product(look, memory, CHUNK, states, returned)
    add_triangle(seen, entries, CHUNK, returned)
    solve_unit_triangle(again, CHUNK, returned)


@kernel()
def _answer(read, own, scale, states, room):
    _, memory, entries, answers, _, _ = room
    answers[:] = 0
    add_product(read, memory, CHUNK, states, answers)
    _scale(answers, scale)
    add_triangle(own, entries, CHUNK, answers)


@kernel()
def _scale(rows, scale):
    for i in range(CHUNK):
        for j in range(TILE):
            rows[i * TILE + j] *= scale[i]


@kernel()
def _store(signal, start, first, skip, answers, response):
    if start < 0 or first < 0:
        return
    wide = min(TILE, signal.shape[1] - first)
    for i in range(CHUNK):
        for j in range(wide):
            passed = skip * signal[start + i, first + j]
            response[start + i, first + j] = answers[i * TILE + j] + passed


@kernel()
def _load_memory(memory, first, exact, rounded):
    wide = min(TILE, memory.shape[1] - first)
    exact.reshape(-1, TILE)[:, :wide] = memory[:, first : first + wide]
    rounded[:] = exact


@kernel()
def _store_memory(memory, first, exact):
    wide = min(TILE, memory.shape[1] - first)
    memory[:, first : first + wide] = exact.reshape(-1, TILE)[:, :wide]


@kernel()
def diagonal_chunks(decay, gain, skip, read, look, write, left, signal, memory, response, before):
    """All chunks with a decay for every state, heads one after the other.

    Arrays that heads share are stored once. Without a delta rule ``look`` is empty. ``left`` is
    empty where what is returned at ``look`` is subtracted at ``write``; else it is added there.
    """
    heads, steps, columns = signal.shape
    states, apart = memory.shape[1], len(left) > 0
    delta = len(look) > 0 and not apart
    moved = np.zeros((3, CHUNK * states), signal.dtype)
    between = np.zeros((2, CHUNK * CHUNK), signal.dtype)
    folded = np.zeros((3, CHUNK * states), signal.dtype)
    pairs = np.zeros((2, CHUNK * CHUNK), signal.dtype)
    carry, ones = np.zeros(states), np.ones(CHUNK, signal.dtype)
    blocks = (columns + TILE - 1) // TILE
    for h in range(heads):
        g = h if len(write) > 1 else 0
        rooms = [_buffers(states, signal) for _ in range(blocks)]
        for b in range(blocks):
            _load_memory(memory[h], b * TILE, rooms[b][0], rooms[b][1])
        for start in range(0, steps, CHUNK):
            span = slice(start, start + CHUNK)
            own_look = look[h, span] if len(look) else read[g, span]
            _fold(decay[h, span], read[g, span], own_look, write[g, span], before, folded, carry)
            _pair(decay[h, span], read[g, span], own_look, write[g, span], before, pairs)
            if apart:
                _fold(decay[h, span], read[g, span], own_look, left[h, span], before, moved, carry)
                _pair(decay[h, span], read[g, span], own_look, left[h, span], before, between)
            if delta:
                pairs[1] *= -1
            for b in range(blocks):
                room = rooms[b]
                _load(signal[h], start, b * TILE, gain[h], room[2])
                if delta:
                    _look_up(folded[1], pairs[1], states, room)
                if apart:
                    _return(folded[1], pairs[1], between[1], states, room)
                _answer(folded[0], pairs[0], ones, states, room)
                room[4][:] = 0
                if apart:
                    add_triangle(between[0], room[5], CHUNK, room[3])
                    add_transposed(moved[2], room[5], states, CHUNK, room[4])
                _store(signal[h], start, b * TILE, skip[h], room[3], response[h])
                _update(folded[2], carry, states, room)
        for b in range(blocks):
            _store_memory(memory[h], b * TILE, rooms[b][0])


@kernel()
def _fold(decay, read, look, write, before, folded, carry):
    """Reads and look-up vectors times the decays from the start of the chunk; the product of all.

    Writes times the decays to the end.
    """
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
            folded[2, i * states + n] = write[i, n] * carry[n]
            carry[n] *= decay[i, n]


@kernel(reorders=True)
def _pair(decay, read, look, write, before, pairs):
    """Products of reads and of look-up vectors with decayed writes for all pairs of a chunk."""
    states = decay.shape[1]
    reached = np.zeros(states)
    pairs[:] = 0
    for j in range(CHUNK):
        diagonal = 0.0
        for n in range(states):
            reached[n] = write[j, n]
            diagonal += read[j, n] * reached[n]
        if not before:
            pairs[0, j * CHUNK + j] = diagonal
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
def _update(send, carry, states, room):
    exact, memory, entries, _, change, _ = room
    add_transposed(send, entries, states, CHUNK, change)
    for n in range(states):
        for k in range(n * TILE, (n + 1) * TILE):
            new = carry[n] * exact[k] + change[k]
            exact[k] = new
            memory[k] = new


SEGMENT = 16 * CHUNK


class Memories(NamedTuple):
    """Coefficients of many heads; ``write`` and ``read`` may be stored once for all of them.

    Attributes:
        decay: one factor a token, or one for every state; the latter with ``look``.
        gain: factor on the signal.
        look: for a delta rule the vectors at which the memory is read before it is overwritten;
            otherwise a tensor without heads.
        left: the vectors at which what was read there is added; a tensor without heads where that
            is ``-write``.
    """

    decay: Float[Tensor, "head time"] | Float[Tensor, "head time state"]
    gain: Float[Tensor, "head time"]
    write: Float[Tensor, "stored time state"]
    read: Float[Tensor, "stored time state"]
    look: Float[Tensor, "looking time state"]
    left: Float[Tensor, "adding time state"]
    signal: Float[Tensor, "head time channel"]

    def each(self, act: Any) -> "Memories":
        return Memories(*map(act, self))


def recall(
    parts: Memories,
    skip: Float[Tensor, " head"],
    memory: Float[Tensor, "head state channel"],
    response: Float[Tensor, "head time channel"],
    *,
    before: bool,
) -> Float[Tensor, "head state channel"]:
    """Fill ``response``, starting from the state ``memory``, and return the final state."""
    (*_, steps, _), states = response.shape, memory.shape[-2]
    missing, spare = -states % 4, -steps % CHUNK
    if missing:
        by_state = {name: part for name, part in parts._asdict().items() if part.ndim > 2}
        del by_state["signal"]
        wide = {name: pad(part, (0, missing)) for name, part in by_state.items()}
        parts = parts._replace(**wide)
    if spare:  # the last chunk is filled with tokens that leave the memory as it is
        decay = _longer(parts.decay, spare, 1.0)
        parts = parts.each(lambda part: _longer(part, spare))._replace(decay=decay)
    found = torch.empty_like(parts.signal) if spare else response
    held = pad(memory.double(), (0, 0, 0, missing)).clone(memory_format=torch.contiguous_format)
    parts = parts.each(lambda part: part.detach().contiguous())
    heads = len(held)

    def run(some: slice) -> None:
        ours = parts.each(lambda part: part if len(part) != heads else part[some])
        _chunks(ours, skip[some].contiguous(), held[some], found[some], before)

    in_parallel(run, shares(heads))
    if spare:
        response.copy_(found[:, :steps])
    return held[:, :states].to(memory.dtype)


def _longer(part: Tensor, spare: int, by: float = 0.0) -> Tensor:
    return pad(part, (0, 0) * (part.ndim - 2) + (0, spare), value=by)


def _chunks(parts: Memories, skip: Tensor, held: Tensor, response: Tensor, before: bool) -> None:
    if parts.decay.ndim > 2:
        given = (parts.decay, parts.gain, skip, parts.read, parts.look, parts.write, parts.left)
        arrays = (part.numpy() for part in (*given, parts.signal, held, response))
        diagonal_chunks(*arrays, before)
        return
    if len(parts.write) == 1:
        _segments(parts, skip, held, response, before)
        return
    # Head by head, what a segment reads is still in the cache where it is read again.
    for h in range(len(parts.signal)):
        one = parts.each(lambda part, h=h: part[h : h + 1])
        some = slice(h, h + 1)
        _segments(one, skip[some], held[some], response[some], before)


def _segments(parts: Memories, skip: Tensor, held: Tensor, response: Tensor, before: bool) -> None:
    """Products of reads and writes for some tokens, then the chunks of these tokens."""
    ends = [part.numpy() for part in (parts.signal, held, response)]
    decay, gain, skips, read = (
        part.numpy() for part in (parts.decay, parts.gain, skip, parts.read)
    )
    for begin in range(0, parts.signal.shape[1], SEGMENT):
        span = slice(begin, begin + SEGMENT)
        send = _by_chunk(parts.write[:, span])
        seen = _by_chunk(parts.read[:, span]) @ send.mT
        prepared = (part.numpy() for part in (send, seen))
        scalar_chunks(decay, gain, skips, read, *prepared, *ends, before, begin)


def _by_chunk(part: Tensor) -> Tensor:
    return part.unflatten(1, (-1, CHUNK))
