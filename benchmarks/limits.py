"""What one thread of this machine can do at most, measured in the same run as what is compared."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, no_type_check

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dsf.kernels.exponentials import A0, A1, A2, A3, A4, A5, LEAST, MANTISSA, ONE, ROUNDER, chosen

# What takes more seconds than this is run once after the turn that does not count.
LONG = 1.0
# Seconds between two looks whether other threads of this process rest, and until it is given up.
NAP, PATIENCE = 0.01, 5.0
LANES = 16
NUMBERS = 2**26  # 268 MB, beyond every cache


def processor_seconds(work: Callable[[], Any]) -> float:
    """Time that this process was at work, in all its threads, whatever else the machine does."""
    come_to_rest()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def come_to_rest() -> None:
    """Wait for threads that still tidy up after what went before, as those of jax do.

    What they take would be charged to what comes next.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        begun = time.process_time()
        time.sleep(NAP)
        if time.process_time() - begun < NAP / 10:
            return


def interleaved(
    works: dict[str, Callable[[], Any]],
    *,
    rounds: int,
    look: Callable[[str, Any], None] = lambda _name, _result: None,
) -> dict[str, float]:
    """The median seconds of each, taken in turns after one turn that does not count.

    ``look`` is shown what each returns in that first turn.
    """
    first: dict[str, float] = {}
    for name, work in works.items():
        come_to_rest()
        begun = time.process_time()
        result = work()
        first[name] = time.process_time() - begun
        look(name, result)
        del result
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        for name, work in works.items():
            if turn == 0 or first[name] < LONG:
                taken[name].append(processor_seconds(work))
    return {name: median(each) for name, each in taken.items()}


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
@no_type_check
def _exponentials(exponents, sums, turns):
    for _ in range(turns):
        for i in range(len(exponents)):
            x = chosen(exponents[i] < LEAST, LEAST, exponents[i])
            rounded = np.float32(x + ROUNDER)
            rest = x - (rounded - ROUNDER)
            slope = A0 + rest * (A1 + rest * (A2 + rest * (A3 + rest * (A4 + rest * A5))))
            power = np.int32((rounded.view(np.int32) << MANTISSA) + ONE).view(np.float32)
            sums[i] = (power + power * (rest * slope)) * sums[i] + exponents[i]


def exponentials(count: int) -> Callable[[], None]:
    """As many exponentials of single precision, each with a product and a sum, in the cache."""
    exponents = -5 * np.random.default_rng(0).random(1024, dtype=np.float32)
    sums = np.zeros_like(exponents)
    return lambda: _exponentials(exponents, sums, count // len(exponents))


def products(operations: float) -> Callable[[], None]:
    """As many operations in products of large matrices of single precision."""
    left, right = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))
    turns = max(1, round(operations / (2 * 1024**3)))

    def multiply() -> None:
        for _ in range(turns):
            left @ right

    return multiply


def passes(numbers: int, *, reads: int) -> Callable[[], Any]:
    """So many numbers of single precision read from memory, ``reads`` times, and written once."""
    given, out = torch.ones(reads, numbers), torch.empty(numbers)
    if reads == 1:
        return lambda: out.copy_(given[0])
    return lambda: torch.add(given[0], given[1], out=out)


@intrinsic
@no_type_check
def _store_past_the_cache(_context, array, at):
    """A register of ones, written without reading first what stood there."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        ones = ir.Constant(ir.VectorType(ir.FloatType(), LANES), [1.0] * LANES)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), ones.type.as_pointer())
        stored = builder.store(ones, place, align=4 * LANES)
        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        stored.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    return types.none(array, at), generate


@njit(nogil=True)
@no_type_check
def _past_the_cache(array):
    for at in range(0, len(array), LANES):
        _store_past_the_cache(array, at)


@njit(nogil=True)
@no_type_check
def _written(array, value):
    for i in range(len(array)):
        array[i] = value


@njit(nogil=True, fastmath=True)
@no_type_check
def _summed(array):
    total = np.float32(0)
    for i in range(len(array)):
        total += array[i]
    return total


def figures() -> dict[str, float]:
    """Absolute limits of this run, in units of 10^9 a second, by name and unit."""
    room = np.zeros(NUMBERS + LANES, np.float32)
    skipped = (-room.ctypes.data // 4) % LANES
    numbers = room[skipped : skipped + NUMBERS]
    count, operations = 2**26, 2.0**36
    works: dict[str, tuple[float, Callable[[], Any]]] = {
        "read, GB/s": (4 * NUMBERS, lambda: _summed(numbers)),
        "write, GB/s": (4 * NUMBERS, lambda: _written(numbers, np.float32(1))),
        "write past the cache, GB/s": (4 * NUMBERS, lambda: _past_the_cache(numbers)),
        "fresh memory of torch, GB/s": (4 * NUMBERS, lambda: torch.ones(NUMBERS)),
        "product of matrices, GFLOP/s": (operations, products(operations)),
        "exponential, product and sum, G/s": (count, exponentials(count)),
    }
    taken = interleaved({name: work for name, (_, work) in works.items()}, rounds=5)
    return {name: amount / taken[name] / 1e9 for name, (amount, _) in works.items()}
