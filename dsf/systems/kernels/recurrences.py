"""Recurrences of states on the CPU, one token after the other.

``scan_states``, ``scan_complex`` and ``modes_response`` are in double precision: slowly decaying
states would accumulate rounding errors of single precision over many tokens. ``selective_scan`` is
the scan of Mamba, without storing decays or states:

    h_t = exp(step_t pole) h_{t-1} + step_t write_t u_t        y_t = read_t . h_t + skip u_t

Channels are processed in blocks, so that the states of a block stay in the cache over time. In
single precision a decay close to one is applied as ``state + (2^x - 1) state``, and the rounding
error of each update is carried to the next, so that slow states keep their digits.
"""

import numpy as np
import torch
from jaxtyping import Complex, Float, Shaped
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor
from torch.nn.functional import pad

from dsf.runtime.threads import in_parallel, shares
from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    WIDE,
    ZERO,
    ahead,
    chosen,
    each,
    factor_of,
    lanes,
    later,
    load,
    load_double,
    loaded,
    nothing,
    numbers,
    pointers,
    power_of_two,
    product,
    product_and_sum,
    slope_of_power,
    spreads,
    store,
    total,
    weighted_sum,
)

# Fewest entries for a thread: fewer contiguous numbers a token are read too slowly.
FEWEST = 1024


def scan_states(
    decays: Shaped[Tensor, "time entry"],
    drives: Shaped[Tensor, "time entry"],
    *,
    at_rest: bool,
    into: tuple[Shaped[Tensor, "time entry"], Shaped[Tensor, " entry"]],
) -> None:
    """Write ``h_t = decay_t h_{t-1} + drive_t``, where the numbers of a token are contiguous.

    ``into`` are the states, in the precision of ``drives``, and the running state, in double
    precision: the initial state before, the final state after. With ``at_rest`` the initial state
    is zero, and the first decay is not applied.
    """
    arrays = [part.detach().numpy() for part in (decays, drives, *into)]

    def run(some: slice) -> None:
        _scan(*arrays[:3], arrays[3][some], some.start, at_rest)

    in_parallel(run, shares(drives.shape[-1], fewest=FEWEST))


@kernel()
def _scan(decays, drives, states, running, first, at_rest):
    begin, width = np.uint64(first), np.uint64(len(running))
    for token in range(len(drives)):
        now = np.uint64(token)
        if at_rest and token == 0:
            for c in range(width):
                running[c] = drives[now, begin + c]
                states[now, begin + c] = running[c]
        else:
            for c in range(width):
                new = decays[now, begin + c] * running[c] + drives[now, begin + c]
                running[c] = new
                states[now, begin + c] = new


MODES = 4 * WIDE  # modes in registers
MODE_TOKENS = 512  # tokens processed with one group of modes before the next group


ABREAST = 16  # entries whose energies are carried along together, side by side in registers


def add_energies(
    decays: Float[Tensor, "*batch time state"],
    writes: Float[Tensor, "*batch times state"],
    reads: Float[Tensor, "*batch times state"],
    *,
    into: tuple[Float[Tensor, "*batch state state"], Float[Tensor, "*batch"]],
    before: bool,
) -> None:
    """Carry ``P <- decay P decay + b bᵀ`` along the tokens and add up the numbers ``cᵀ P c``.

    Args:
        writes, reads: b and c of every token, or of one where they are the same for all.
        into: P, of which the lower triangle is used, and the sums, in double precision, of what
            earlier tokens have left.
        before: states are read before they decay.
    """
    gram, found = into

    def as_rows(part: Tensor) -> np.ndarray:
        whole = part.detach().expand(*found.shape, *part.shape[-2:])
        return whole.reshape(-1, *part.shape[-2:]).double().contiguous().numpy()

    arrays = [as_rows(part) for part in (decays, writes, reads)]
    arrays += [gram.view(-1, *gram.shape[-2:]).numpy(), found.view(-1).numpy()]
    in_parallel(lambda some: _add(*(part[some] for part in arrays), before), shares(found.numel()))


@kernel(reorders=True)
def _add(decays, writes, reads, gram, found, before):
    entries, steps, states = decays.shape
    energies, total = np.zeros((states, states, ABREAST)), np.zeros(ABREAST)
    decay = np.zeros((states, ABREAST))
    write, read = np.zeros_like(decay), np.zeros_like(decay)
    for first in range(0, entries, ABREAST):
        some = slice(first, first + ABREAST)
        few = len(found[some])
        energies[:, :, :few] = gram[some].transpose((1, 2, 0))
        total[:] = 0.0
        for t in range(steps):
            decay[:, :few] = decays[some, t].T
            write[:, :few] = writes[some, min(t, writes.shape[1] - 1)].T
            read[:, :few] = reads[some, min(t, reads.shape[1] - 1)].T
            for i in range(states):
                for j in range(i + 1):
                    times = 1.0 if i == j else 2.0
                    for c in range(ABREAST):
                        kept = energies[i, j, c]
                        faded = kept * (decay[i, c] * decay[j, c])
                        seen = kept if before else faded
                        total[c] += times * (read[i, c] * read[j, c]) * seen
                        energies[i, j, c] = faded + write[i, c] * write[j, c]
        found[some] += total[:few]
        gram[some] = energies[:, :, :few].transpose((2, 0, 1))


def modes_response(
    decay: Complex[Tensor, "channel mode"],
    weight: Complex[Tensor, "channel mode"],
    skip: Float[Tensor, " channel"],
    signal: Float[Tensor, "channel time"],
    *,
    into: Float[Tensor, "channel time"],
) -> None:
    """Write the response from a zero state; all arrays have time as their contiguous axis."""
    more = -decay.shape[-1] % MODES
    parts = [pad(part, (0, more)) for each in (decay, weight) for part in (each.real, each.imag)]
    table = torch.stack(parts, dim=-2).double()
    arrays = [part.detach().numpy() for part in (table, skip.double(), signal.contiguous(), into)]
    in_parallel(lambda some: _channels(some.start, some.stop, *arrays), shares(len(signal)))


_sum_less_product = each(lambda a, b, c: c - a * b)


@kernel()
def _modes(table, state, modes, signal, sums, count):
    """One group of modes, as many as fit in registers, over ``count`` tokens."""
    decay, turn = loaded(table, 0, WIDE), loaded(table, modes, WIDE)
    weight, across = loaded(table, 2 * modes, WIDE), loaded(table, 3 * modes, WIDE)
    real, imaginary = loaded(state, 0, WIDE), loaded(state, modes, WIDE)
    for t in range(count):
        u = signal[t]
        moved = _sum_less_product(turn, imaginary, (u, u, u, u))
        imaginary = product_and_sum(decay, imaginary, product(turn, real))
        real = product_and_sum(decay, real, moved)
        seen = _sum_less_product(across, imaginary, product(weight, real))
        sums[t] += total((seen[0] + seen[1]) + (seen[2] + seen[3]))
    for n in range(4):
        store(state, n * WIDE, real[n])
        store(state, modes + n * WIDE, imaginary[n])


@kernel()
def _channels(first, last, table, skip, signal, response):
    modes, steps = table.shape[2], signal.shape[1]
    states, row = np.empty(2 * modes), np.empty(MODE_TOKENS)
    state, sums = pointers(states), pointers(row)
    for channel in range(first, last):
        states[:] = 0
        mine = pointers(table[channel])
        for start in range(0, steps, MODE_TOKENS):
            count, given = min(MODE_TOKENS, steps - start), signal[channel, start:]
            for t in range(count):
                row[t] = skip[channel] * given[t]
            for n in range(0, modes, MODES):
                _modes(ahead(mine, n), ahead(state, n), modes, pointers(given), sums, count)
            for t in range(count):
                response[channel, start + t] = row[t]


@kernel()
def scan_complex(table, state, drive, before):
    """Take the states ``sequence part state`` through some tokens; they replace the drive.

    Parts are real and imaginary ones, whose numbers are multiples of ``WIDE``; ``drive`` is
    ``sequence time state`` with all real parts ahead. The table has the parts of the decays, then
    those of what is written and of what is read by a term of rank one, if there is one. With
    ``before`` the states before every token are written instead of those after it.
    """
    count, coupled = state.shape[2], table.shape[1] > 2
    for e in range(len(drive)):
        known, held = pointers(table[e]), pointers(state[e])
        left, right = ahead(known, 2 * count), ahead(known, 4 * count)
        seen, across = 0.0, 0.0
        for n in range(count if coupled else 0):
            seen += right[n] * held[n] - right[count + n] * held[count + n]
            across += right[n] * held[count + n] + right[count + n] * held[n]
        for t in range(drive.shape[1]):
            row, real, imaginary = pointers(drive[e, t]), nothing(held), nothing(held)
            for n in range(0, count, WIDE):
                m = count + n
                a, b, shrink, turn = load(held, n), load(held, m), load(known, n), load(known, m)
                x = shrink * a - turn * b + load_double(row, n)
                y = shrink * b + turn * a + load_double(row, m)
                if coupled:
                    push, cross = load(left, n), load(left, m)
                    look, aside = load(right, n), load(right, m)
                    x = x + (push * seen - cross * across)
                    y = y + (push * across + cross * seen)
                    real = real + (look * x - aside * y)
                    imaginary = imaginary + (look * y + aside * x)
                store(held, n, x)
                store(held, m, y)
                store(row, n, a if before else x)
                store(row, m, b if before else y)
            seen, across = total(real), total(imaginary)


@intrinsic
def prefetched(_context, pointer):
    """Prefetch the cache line of a number into the second-level cache."""

    def generate(context, builder, _signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        asked = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
        reads, near, data = number(0), number(2), number(1)
        builder.call(asked, [builder.bitcast(arguments[0], byte), reads, near, data])
        return context.get_dummy_value()

    return types.void(pointer), generate


BLOCK, GROUP = 32, 4
# The row of a state: state, its rounding error, pole, and padding so that rows do not map to the
# same cache sets. The row of a token: step, drive, response.
STATE, LOST, POLE, ROW = 0, BLOCK, 2 * BLOCK, 3 * BLOCK + 16
STEP, DRIVE, SUM, LINE = 0, BLOCK, 2 * BLOCK, 3 * BLOCK
LOWEST = -2.4  # half of the lowest exponent of ``slow_update``
FASTEST = np.float32(2 * LOWEST)
K0, K1, K2, K3, K4, K5, K6 = (np.float32(c) for c in slope_of_power(6, LOWEST, 0.0))
HALF, TWO = np.float32(0.5), np.float32(2)


# (2^x - 1) / x from LOWEST to 0
_slope = each(lambda x: K0 + x * (K1 + x * (K2 + x * (K3 + x * (K4 + x * (K5 + x * K6))))))
_sum = each(lambda a, b: a + b)
_rounding_error = each(lambda change, new, old: change - (new - old))
_squared_minus_one = each(lambda less: less * (less + TWO))  # (1 + less)² - 1


@kernel(inlined=True)
def _updated(change, old):
    """``old + change``, and the rounding error of that sum."""
    new = _sum(old, change)
    return new, _rounding_error(change, new, old)


@kernel(inlined=True)
def _slow(half, old, lost, write, drive):
    """For exponents from ``FASTEST`` to 0: takes half the exponent and squares the factor."""
    less = _squared_minus_one(product(_slope(half), half))
    return _updated(product_and_sum(less, old, product_and_sum(write, drive, lost)), old)


# Whether the decay is close to one, and then decay - 1, else the decay.
_factor_of = each(factor_of.py_func)
_factor = each(lambda found: found[1])
_if_slow = each(lambda found, part: chosen(found[0], part, ZERO))


@kernel(inlined=True)
def _any(x, old, lost, write, drive):
    """For all exponents. Rounding errors are carried only where the decay is close to one."""
    found = _factor_of(x)
    drives = product_and_sum(write, drive, _if_slow(found, lost))
    return _updated(product_and_sum(_factor(found), old, drives), _if_slow(found, old))


@kernel(inlined=True)
def _store_rows(cell, at, parts):
    for n in range(GROUP):
        store(cell, n * ROW + at, parts[n])


@kernel()
def slow_update(cell, tile, count, write, read, states, table, width):
    """Update four states of a block of channels over ``count`` tokens.

    At every token a cache line of ``table`` is prefetched for later tokens. The distance from token
    to token is ``states`` numbers in ``write`` and ``read`` and ``width`` numbers in ``table``.
    """
    for d in range(0, BLOCK, lanes(cell)):
        mine = ahead(cell, d)
        old, lost = loaded(mine, STATE, ROW), loaded(mine, LOST, ROW)
        pole = product(loaded(mine, POLE, ROW), (HALF, HALF, HALF, HALF))
        line, w, r, asked = ahead(tile, d), ahead(write, 0), ahead(read, 0), ahead(table, d)
        for _ in range(count):
            step, drive = load(line, STEP), load(line, DRIVE)
            half = product(pole, (step, step, step, step))
            old, lost = _slow(half, old, lost, spreads(w, 0, 1), (drive, drive, drive, drive))
            store(line, SUM, load(line, SUM) + weighted_sum(spreads(r, 0, 1), old))
            prefetched(asked)
            line, asked = ahead(line, LINE), ahead(asked, width)
            w, r = ahead(w, states), ahead(r, states)
        _store_rows(mine, STATE, old)
        _store_rows(mine, LOST, lost)


@kernel()
def any_update(cell, tile, count, write, read, states, _table, _width):
    """The same for all exponents, vectorised by the compiler, with states stored at every token."""
    for _ in range(count):
        w, r = numbers(write, 0, 1), numbers(read, 0, 1)
        for d in range(BLOCK):
            step, drive = tile[STEP + d], tile[DRIVE + d]
            x = product(numbers(cell, POLE + d, ROW), (step, step, step, step))
            old, lost = numbers(cell, STATE + d, ROW), numbers(cell, LOST + d, ROW)
            new, lost = _any(x, old, lost, w, (drive, drive, drive, drive))
            tile[SUM + d] += weighted_sum(r, new)
            for n in range(GROUP):
                cell[n * ROW + STATE + d] = new[n]
                cell[n * ROW + LOST + d] = lost[n]
        tile, write, read = ahead(tile, LINE), ahead(write, states), ahead(read, states)


# Tokens for which states stay in registers, and consecutive tokens of one block of channels: no
# more than the address translation buffer (TLB) has pages for.
TOKENS, SPAN = 8, 512
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
    """Write the response and the state after the last token into the two tensors of ``into``.

    All parts have one real number type; in the response the numbers of a token are contiguous.
    """
    response, leaving = into
    channels, states = pole.shape
    spare = -channels % BLOCK if step.dtype == torch.float32 else 0
    if spare:  # channels of zeros fill the last block
        step, value, skip = (pad(part, (0, spare)) for part in (step, value, skip))
        pole, entering = (pad(part, (0, 0, 0, spare)) for part in (pole, entering))
        wider = torch.empty_like(value), torch.empty_like(entering)
        selective_scan(step, value, pole, write, read, skip, entering, into=wider)
        response.copy_(wider[0][:, :channels])
        leaving.copy_(wider[1][:channels])
        return
    more = -states % GROUP
    bases = (pole.double() * np.log2(np.e)).to(pole.dtype)
    rows, start = (pad(part, (0, more)).mT.contiguous().clone() for part in (bases, entering))
    ports = (pad(part, (0, more)).flatten() for part in (write, read))
    parts = (step.contiguous(), value.contiguous(), rows, *ports, skip.contiguous())
    arrays = [part.detach().numpy() for part in (*parts, start, response)]
    scan, share = _scan_double, BLOCK
    if step.dtype == torch.float32:
        scan, share = _scan_single, BLOCK * -(-channels // (BLOCK * torch.get_num_threads()))

    def run(first: int) -> None:
        scan(first, min(first + share, channels), *arrays)

    in_parallel(run, range(0, channels, share))
    leaving.copy_(start[:states].mT)


@kernel()
def _aligned(size, like):
    """An array of zeros that is aligned to cache lines."""
    room = np.zeros(size + 16, like.dtype)
    skipped = (-room.ctypes.data // like.itemsize) % 16
    return room[skipped : skipped + size]


@kernel()
def _load_states(cell, least, first, pole, state):
    """States and poles of a block, and the lowest pole of every group; nan if one is positive."""
    for n in range(len(pole)):
        for d in range(BLOCK):
            each, low = pole[n, first + d], least[n // GROUP]
            cell[n * ROW + STATE + d], cell[n * ROW + POLE + d] = state[n, first + d], each
            least[n // GROUP] = min(low, each) if each <= ZERO and low <= ZERO else np.nan


@kernel(inlined=True)
def _load_tokens(tile, peaks, count, step, value, skip, width):
    """Steps, drives and feedthrough of some tokens; returns the longest step, nan if one is < 0.

    Bit patterns compared as integers order non-negative numbers correctly, and put nan and negative
    numbers after all of them.
    """
    line, peak = ahead(tile, 0), nothing(tile)
    for _ in range(count):
        for d in range(0, BLOCK, lanes(tile)):
            each, given = load(step, d), load(value, d)
            store(line, STEP + d, each)
            store(line, DRIVE + d, each * given)
            store(line, SUM + d, load(skip, d) * given)
            peak = later(peak, each)
        line, step, value = ahead(line, LINE), ahead(step, width), ahead(value, width)
    store(pointers(peaks), 0, peak)
    longest = peaks.view(np.uint32).max()
    return np.uint32(longest).view(np.float32) if longest <= INFINITE else np.float32(np.nan)


@kernel(inlined=True)
def _store_responses(tile, count, response, width):
    for _ in range(count):
        for d in range(0, BLOCK, lanes(tile)):
            store(response, d, load(tile, SUM + d))
        tile, response = ahead(tile, LINE), ahead(response, width)


@kernel()
def _run(cell, least, row, peaks, span, tables, width, ports, states, skip):
    """Some tokens of a block; each group of states uses the cheaper loop where its decays are slow.

    The groups in turn prefetch later lines of the ``tables``: steps, values and responses.
    """
    write, read = ports
    tile = pointers(row)
    for start in range(span[0], span[1], TOKENS):
        count, o = min(TOKENS, span[1] - start), start * width
        step, value, response = ahead(tables[0], o), ahead(tables[1], o), ahead(tables[2], o)
        longest = _load_tokens(tile, peaks, count, step, value, skip, width)
        asked = step, value, response
        for group in range(len(least)):
            lowest, mine = longest * least[group], ahead(cell, group * GROUP * ROW)
            n, later_on = start * states + group * GROUP, ahead(asked[0], TOKENS * width)
            w, r = ahead(write, n), ahead(read, n)
            if lowest >= FASTEST:
                slow_update(mine, tile, count, w, r, states, later_on, width)
            else:
                any_update(mine, tile, count, w, r, states, later_on, width)
            asked = asked[1], asked[2], asked[0]
        _store_responses(tile, count, response, width)


@kernel()
def _scan_single(begin, end, step, value, pole, write, read, skip, state, response):
    states, blocks, width = len(pole), (end - begin) // BLOCK, step.shape[1]
    cells = _aligned(blocks * states * ROW, step).reshape(blocks, states * ROW)
    least = np.zeros((blocks, states // GROUP), step.dtype)
    row, peaks = _aligned(TOKENS * LINE, step), np.zeros(BLOCK, step.dtype)
    for k in range(blocks):
        _load_states(cells[k], least[k], begin + k * BLOCK, pole, state)
    ports = pointers(write), pointers(read)
    for start in range(0, len(step), SPAN):
        span = start, min(start + SPAN, len(step))
        for k in range(blocks):
            first = begin + k * BLOCK
            tables = (
                ahead(pointers(step), first),
                ahead(pointers(value), first),
                ahead(pointers(response), first),
            )
            mine = ahead(pointers(skip), first)
            _run(pointers(cells[k]), least[k], row, peaks, span, tables, width, ports, states, mine)
    for c in range(begin, end):
        for n in range(states):
            state[n, c] = cells[(c - begin) // BLOCK, n * ROW + (c - begin) % BLOCK]


@kernel()
def _scan_double(first, last, step, value, pole, write, read, skip, state, response):
    if first < 0:
        return
    cell = np.zeros((len(pole), BLOCK))
    token = np.zeros(LINE)
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
