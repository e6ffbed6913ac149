"""What one thread of this machine can do at most, measured in the same run as what is compared."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf
from statistics import median
from typing import Any, no_type_check

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from dsf.systems.kernels.registers import BYTES, lanes, loaded, pointers, product_and_sum, store

# What takes more seconds than this is run once after the turn that does not count.
LONG = 1.0
# What takes fewer is done once more right before it is timed, as in a program that calls it often:
# what a processor that has waited takes to fetch its data is not counted.
SHORT = 0.5
# Seconds between two looks whether other threads of this process rest, and until it is given up.
NAP, NAPS, PATIENCE = 0.01, 3, 5.0
LANES = 16
PROBES = 3
NUMBERS = 2**26  # 268 MB, beyond every cache


@dataclass(frozen=True)
class Needs:
    """What a computation cannot do without, whatever the algorithm.

    Attributes:
        fused: multiply-adds of single precision.
        read, written: numbers of single precision that have to come from memory, and go there.
    """

    fused: float
    read: float
    written: float

    def probes(self) -> dict[str, tuple[float, Callable[[], Any]]]:
        """By part what there is to do, as a multiple of what the probe beside it does.

        Multiply-adds go in registers and meet no memory. Memory is read, and written past the
        caches, in arrays of the very sizes that are needed, so that what of these lies in a cache
        from one turn to the next is as much as it is for the computation.
        """
        numbers = np.ones(LANES * ceil(self.read / LANES), np.float32)
        room = _aligned(LANES * ceil(self.written / LANES))
        return {
            "fused": (self.fused / FUSED, fused),
            "read": (1.0, lambda: _summed(numbers)),
            "written": (1.0, lambda: _past_the_cache(room)),
        }


def processor_seconds(work: Callable[[], Any], *, warm: bool = False) -> float:
    """Time that this process was at work, in all its threads, whatever else the machine does."""
    come_to_rest()
    if warm:
        work()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def come_to_rest() -> None:
    """Wait for threads that still tidy up after what went before, as those of jax do.

    What they take would be charged to what comes next.
    """
    end, quiet = time.monotonic() + PATIENCE, 0
    while time.monotonic() < end and quiet < NAPS:
        begun = time.process_time()
        time.sleep(NAP)
        quiet = quiet + 1 if time.process_time() - begun < NAP / 10 else 0


def interleaved(
    works: dict[str, Callable[[], Any]],
    *,
    rounds: int,
    look: Callable[[str, Any], None] = lambda _name, _result: None,
    limit: Needs | None = None,
) -> dict[str, float]:
    """The median seconds of each, taken in turns after one turn that does not count.

    ``look`` is shown what each returns in that first turn. With ``limit`` the last entry says how
    long this machine takes at least: the longest of the parts of what is needed, each by the best
    turn of its probe.
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
    probes = {} if limit is None else limit.probes()
    best = dict.fromkeys(probes, inf)
    for _, probe in probes.values():
        probe()
    for turn in range(rounds):
        for name, work in works.items():
            if turn == 0 or first[name] < LONG:
                taken[name].append(processor_seconds(work, warm=first[name] < SHORT))
        for name, (_, probe) in probes.items():
            best[name] = min(best[name], *(processor_seconds(probe) for _ in range(PROBES)))
    found = {name: median(each) for name, each in taken.items()}
    if limit is not None:
        found["limit"] = max(share * best[name] for name, (share, _) in probes.items())
    return found


# Multiply-adds of one probe, in so many chains of whole registers that none waits for another.
CHAINS, TURNS = 12, 2**20
FUSED = float(CHAINS * TURNS * (BYTES // 4))


@njit(nogil=True, fastmath={"contract"})
@no_type_check
def _fused(numbers, turns):
    given, wide = pointers(numbers), lanes(pointers(numbers))
    # No two chains begin alike, or the compiler would compute them once.
    a, b = loaded(given, 0, wide), loaded(given, 4 * wide, wide)
    c, xs = loaded(given, 8 * wide, wide), loaded(given, 12 * wide, wide)
    for _ in range(turns):
        a, b = product_and_sum(a, xs, xs), product_and_sum(b, xs, xs)
        c = product_and_sum(c, xs, xs)
    for k in range(4):
        store(given, k * wide, (a[k] + b[k]) + c[k])


def fused() -> None:
    """``FUSED`` multiply-adds of single precision in registers."""
    _fused(np.random.default_rng(0).random(16 * LANES, dtype=np.float32) / 2, TURNS)


def _aligned(numbers: int) -> Any:
    room = np.zeros(numbers + LANES, np.float32)
    skipped = (-room.ctypes.data // 4) % LANES
    return room[skipped : skipped + numbers]


def products(operations: float) -> Callable[[], None]:
    """As many operations in products of large matrices of single precision."""
    left, right = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))
    turns = max(1, round(operations / (2 * 1024**3)))

    def multiply() -> None:
        for _ in range(turns):
            left @ right

    return multiply


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
    numbers, operations = _aligned(NUMBERS), 2.0**36
    works: dict[str, tuple[float, Callable[[], Any]]] = {
        "read, GB/s": (4 * NUMBERS, lambda: _summed(numbers)),
        "write, GB/s": (4 * NUMBERS, lambda: _written(numbers, np.float32(1))),
        "write past the cache, GB/s": (4 * NUMBERS, lambda: _past_the_cache(numbers)),
        "fresh memory of torch, GB/s": (4 * NUMBERS, lambda: torch.ones(NUMBERS)),
        "product of matrices, GFLOP/s": (operations, products(operations)),
        "multiply-adds in registers, G/s": (FUSED, fused),
    }
    for _, work in works.values():
        work()  # which compiles, and would be taken for long work
    taken = interleaved({name: work for name, (_, work) in works.items()}, rounds=5)
    return {name: amount / taken[name] / 1e9 for name, (amount, _) in works.items()}
