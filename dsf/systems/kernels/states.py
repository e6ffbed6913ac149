"""Recurrences of states on the CPU, one token after the other, in double precision.

``scan_states``: uncoupled states, each with its own decay at every token. ``modes_response``: a
time-invariant complex diagonal with one port, such as S4D, with the modes of a channel in registers
over time. ``scan_complex``: complex states alone, with or without a term of rank one (S4, S5, LRU).
Slowly decaying states would accumulate rounding errors of single precision over many tokens.
"""

import numpy as np
import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor
from torch.nn.functional import pad

from dsf.runtime.threads import in_parallel
from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import (
    WIDE,
    ahead,
    each,
    loaded,
    pointers,
    product,
    product_and_sum,
    store,
    total,
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
    entries = drives.shape[-1]
    share = max(FEWEST, -(-entries // torch.get_num_threads()))

    def run(first: int) -> None:
        last = min(first + share, entries)
        _scan(*arrays[:3], arrays[3][first:last], first, at_rest)

    in_parallel(run, range(0, entries, share))


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


TOGETHER = 4 * WIDE  # modes in registers
SPAN = 512  # tokens processed with one group of modes before the next group


def modes_response(
    decay: Complex[Tensor, "channel mode"],
    weight: Complex[Tensor, "channel mode"],
    skip: Float[Tensor, " channel"],
    signal: Float[Tensor, "channel time"],
    *,
    into: Float[Tensor, "channel time"],
) -> None:
    """Write the response from a zero state; all arrays have time as their contiguous axis."""
    more = -decay.shape[-1] % TOGETHER
    parts = [pad(part, (0, more)) for each in (decay, weight) for part in (each.real, each.imag)]
    table = torch.stack(parts, dim=-2).double()
    arrays = [part.detach().numpy() for part in (table, skip.double(), signal.contiguous(), into)]
    channels = len(signal)
    share = max(1, -(-channels // torch.get_num_threads()))

    def run(first: int) -> None:
        _channels(first, min(first + share, channels), *arrays)

    in_parallel(run, range(0, channels, share))


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
    states, row = np.empty(2 * modes), np.empty(SPAN)
    state, sums = pointers(states), pointers(row)
    for channel in range(first, last):
        states[:] = 0
        mine = pointers(table[channel])
        for start in range(0, steps, SPAN):
            count, given = min(SPAN, steps - start), signal[channel, start:]
            for t in range(count):
                row[t] = skip[channel] * given[t]
            for n in range(0, modes, TOGETHER):
                _modes(ahead(mine, n), ahead(state, n), modes, pointers(given), sums, count)
            for t in range(count):
                response[channel, start + t] = row[t]


@kernel(reorders=True)
def scan_complex(decay, left, right, state, drive, before):
    """Take the states ``sequence state`` through some tokens; they replace the drive.

    ``drive`` is ``sequence time state``, ``left`` and ``right`` are empty without a term of rank
    one. With ``before`` the states before every token are written instead of those after it.
    """
    coupled = right.shape[1] > 0
    for e in range(len(drive)):
        held, kept = state[e], decay[e]
        seen = 0j
        for n in range(right.shape[1]):
            seen += right[e, n] * held[n]
        for t in range(drive.shape[1]):
            row, real, imaginary = drive[e, t], 0.0, 0.0
            if coupled:
                for n in range(len(held)):
                    old = held[n]
                    new = kept[n] * old + (left[e, n] * seen + row[n])
                    held[n] = new
                    row[n] = old if before else new
                    read = right[e, n] * new
                    real += read.real
                    imaginary += read.imag
                seen = complex(real, imaginary)
            else:
                for n in range(len(held)):
                    old = held[n]
                    held[n] = kept[n] * old + row[n]
                    row[n] = old if before else held[n]
