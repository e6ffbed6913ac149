"""Peak memory of maps, row folds and responses, computed from sizes before they start."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch

from dsf.evaluate.arguments import working_dtype
from dsf.evaluate.compiled import row_loops
from dsf.evaluate.loops import heads_of
from dsf.evaluate.windows import numbers_at_once
from dsf.systems.composite import Operator, kept_rows
from dsf.systems.system import System


class MapTooLarge(MemoryError):
    """An operation would take more than half of the free memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, a device's, or that of torch's CPU
    allocator, which raises a plain ``RuntimeError``."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


@contextmanager
def naming_out_of_memory(what: str, *, cure: str) -> Iterator[None]:
    """Inside, memory that runs out is an error that says so, with what to do."""
    try:
        yield
    except MapTooLarge:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
        raise MapTooLarge(
            f"{what}: the memory of this machine ran out ({reason}). {cure}"
        ) from error


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take on ``device``, or None where that is not known.

    On a processor the least of what the machine has free and what the limits of the process
    (address space, as ``ulimit -v`` sets it) and of its control group leave.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = (_free_of_machine(), left_of_address_space(), _left_of_group())
    return min((each for each in left if each is not None), default=None)


def _free_of_machine() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as report:
            for line in report:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def left_of_address_space() -> int | None:
    """What a limit on the addresses of the process leaves, None without one."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        with open("/proc/self/statm", encoding="ascii") as report:
            taken = int(report.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        return max(0, limit - taken)
    except (ImportError, OSError, ValueError):
        return None


GROUP = "/sys/fs/cgroup"


def _left_of_group() -> int | None:
    """What the control group leaves; files in its page cache count as free."""
    try:
        with open(f"{GROUP}/memory.max", encoding="ascii") as report:
            limit = report.read().strip()
        if limit == "max":
            return None
        with open(f"{GROUP}/memory.current", encoding="ascii") as report:
            taken = int(report.read())
        with open(f"{GROUP}/memory.stat", encoding="ascii") as report:
            facts = dict(line.split() for line in report)
        return max(0, int(limit) - taken + int(facts.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


SOME_ROWS = (
    "Ask for some rows (rows=slice(0, 64)), or fold over dsf.evaluate.row_blocks(system): the "
    "measures do that automatically."
)


def check_room(
    owner: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    *,
    cure: str = SOME_ROWS,
) -> None:
    """Raise if a tensor of ``shape`` would take more than half of the free memory."""
    what = f"a map of shape {tuple(shape)} in {str(dtype).removeprefix('torch.')}"
    check_plan(owner, prod(shape) * dtype.itemsize, device, what=what, cure=cure)


WINDOW = 64
SCORES = 64 * 1024  # scores of one chunk of columns in a pass of row reductions
COPIES = 8  # arrays of the size of those scores: absolute values, logarithms, signs, squares
# Arrays of the size of all windows folded at once: coefficients, products, and freed memory that
# the allocator has not returned.
HELD = 12
GB = 1e9


def map_bytes(system: Operator) -> int:
    """Peak memory of ``dsf.attention_map(system)``, in bytes."""
    copies = 1 if _is_compiled(system) else 2  # the blocks, and their concatenation
    return copies * _row_bytes(system) * system.steps + _carried_bytes(system)


def block_bytes(system: Operator, size: int) -> int:
    """Peak memory of a pass over ``dsf.evaluate.row_blocks`` of ``size`` tokens, in bytes."""
    copies = 1 if _is_compiled(system) else 3
    return copies * _row_bytes(system) * size + _carried_bytes(system)


def respond_bytes(system: System, channels: int) -> int:
    """Peak memory of ``dsf.respond`` to a signal of ``channels`` channels, in bytes."""
    item, entries = working_dtype(system.dtype).itemsize, system.batch.numel()
    response = entries * system.steps * system.output_size * channels
    return (2 * response + HELD * numbers_at_once(system, channels)) * item


def statistics_bytes(system: System, measures: int) -> int:
    """Peak memory of ``measures.streamed`` with ``measures`` measures of heads, in bytes."""
    item, rows = system.dtype.itemsize, system.batch.numel() * system.steps * system.output_size
    # two copies of every measure, contiguous decays and steps, decay products and their logarithms
    return (rows * (2 * measures + 6) + COPIES * SCORES) * item


def check_plan(
    owner: str, needed: int, device: torch.device, *, cure: str, what: str = "this"
) -> None:
    """Raise ``MapTooLarge`` if an operation needs more than half of the free memory."""
    free = free_memory(device)
    if free is not None and needed > free / 2:
        raise MapTooLarge(
            f"{owner}: {what} takes {needed / GB:.1f} GB at its peak, but {free / GB:.1f} GB are "
            f"free and half of that is the limit. {cure}"
        )


def _is_compiled(system: Operator) -> bool:
    return isinstance(system, System) and row_loops(system, system.steps) is not None


def _row_bytes(system: Operator) -> int:
    """Bytes of one query (row) of every map of the batch."""
    columns = getattr(system, "read_steps", system.steps) * system.input_size
    return system.batch.numel() * system.output_size * columns * system.dtype.itemsize


def _carried_bytes(system: Operator) -> int:
    """Bytes that earlier windows store for the rows of later ones."""
    if not isinstance(system, System) or kept_rows(system) is not None:
        return 0  # rows are stored, or computed from queries and keys
    entries, steps = system.batch.numel(), system.steps * system.input_size
    is_compiled = _is_compiled(system)
    if is_compiled and heads_of(system) is not None:
        return (3 * entries + WINDOW) * steps * system.dtype.itemsize
    states = system.state_size
    panel = WINDOW * (4 * states + 3 * WINDOW) * entries
    copies = 1 if is_compiled else 2
    return (entries * states * steps * copies + panel) * working_dtype(system.dtype).itemsize
