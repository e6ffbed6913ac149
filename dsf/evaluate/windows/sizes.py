"""A cost model for the number of tokens of a window in the chunkwise evaluator.

Short windows are many, and each costs operations to start and a state to carry. Long windows have
more pairs of tokens, and larger triangular systems where A_t has a low-rank term.
"""

from math import ceil, log2
from typing import NamedTuple

from dsf.systems.solve.uncoupled import FEW
from dsf.systems.system import System
from dsf.systems.transition import Dense, DiagonalPlusLowRank, Kronecker, ScaledIdentity, Transition

SIZES = (16, 32, 64, 128, 256)


class Costs(NamedTuple):
    """Costs on one kind of device: times in nanoseconds, and a limit.

    Attributes:
        operation: starting one torch operation, however small.
        product: one multiplication and addition inside a matrix product.
        entry: one pair of tokens, or one number of the state, in all elementwise operations on it.
        together: limit on the entries of windows that are folded at once. More take more memory,
            and on a CPU they do not fit in its cache.
    """

    operation: float
    product: float
    entry: float
    together: int


# The CPU values are from benchmarks/window_sizes.py with one thread. The GPU values are not
# measured: they are set so that models of published sizes get the published 64 to 128 tokens.
PROCESSOR = Costs(operation=6e3, product=0.035, entry=3.0, together=1 << 20)
GRAPHICS_CARD = Costs(operation=5e3, product=2e-4, entry=0.02, together=1 << 25)


class Window(NamedTuple):
    """Work of one window. All but the operations are counted for one sequence.

    Attributes:
        held: numbers in memory at a time.
        operations: torch operations that fold it, or many windows together.
        moves: torch operations that carry the state over it.
        products: multiplications inside matrix products, as far as they depend on the window size.
        entries: pairs of tokens and numbers of the state.
    """

    held: int
    operations: float
    moves: int
    products: float
    entries: float


def window_size(system: System, channels: int, *, alike: bool = False) -> int:
    """The number of tokens of a window with the least estimated time for a response.

    A power of two from 16 to 256, from the sizes of the system alone.

    Args:
        system: of any structure.
        channels: columns of the signal.
        alike: whether the system is time-invariant, so that one window is folded for all.
    """
    costs = [cost(system, channels, size, alike=alike) for size in SIZES]
    return SIZES[costs.index(min(costs))]


def stepped_size(system: System, channels: int) -> int:
    """The window size for a recurrence inside windows: the largest whose states fit the cache."""
    numbers = system.batch.numel() * system.state_size * channels
    return max([size for size in SIZES if size * numbers <= FEW], default=SIZES[0])


def windows_at_once(system: System, channels: int, size: int) -> int:
    """How many windows of ``size`` tokens are folded together."""
    held = system.batch.numel() * _window(system, channels, size).held
    return max(1, _costs(system).together // max(1, held))


def numbers_at_once(system: System, channels: int) -> int:
    """Numbers in memory while windows of the default size are folded together."""
    size = min(window_size(system, channels), system.steps)
    windows = min(windows_at_once(system, channels, size), ceil(system.steps / size))
    return windows * system.batch.numel() * _window(system, channels, size).held


def cost(system: System, channels: int, size: int, *, alike: bool = False) -> float:
    """Estimated nanoseconds of a response in windows of ``size`` tokens.

    Work that does not depend on the window size is left out.
    """
    costs, window = _costs(system), _window(system, channels, size)
    windows = ceil(system.steps / size)
    folded = 1 if alike else windows
    groups = ceil(folded / windows_at_once(system, channels, size))
    carried = windows * system.state_size * channels
    numbers = costs.product * folded * window.products
    numbers += costs.entry * (folded * window.entries + carried)
    operations = groups * window.operations + windows * window.moves
    return costs.operation * operations + system.batch.numel() * numbers


def _costs(system: System) -> Costs:
    return PROCESSOR if system.device.type == "cpu" else GRAPHICS_CARD


def _window(system: System, channels: int, size: int) -> Window:
    """The work of one window, counted from :mod:`dsf.evaluate.windows.folding`."""
    A, states = system.A, system.state_size
    inputs, outputs = size * system.input_size, size * system.output_size
    applied = float(inputs * outputs * channels)
    if isinstance(A, Dense):  # token by token, in double precision
        held = 2 * (size * states**2 + (states + outputs) * (states + inputs)) + states * channels
        entries = states * (states + inputs // 2)
        return Window(held, 5 * size, 4, size * states * entries + applied, size * entries)
    if isinstance(A, Kronecker):  # one product of small matrices a token, one map a pair of states
        pairs = inputs * outputs
        held = (2 + A.few**2) * pairs + states * (inputs + outputs + channels)
        products = A.few * states * pairs + applied
        return Window(held, 3 * size + 4 * A.few**2, 4, products, 2 * A.few**2 * pairs)
    fed_back = size * A.left.shape[-1] if isinstance(A, DiagonalPlusLowRank) else 0
    pairs = (inputs + fed_back) * (outputs + fed_back)
    held = pairs + states * (inputs + outputs + 2 * fed_back)
    if _is_scalar(A):
        operations, products = 40.0, states * pairs + applied
    else:  # blocks of tokens are joined in pairs; half of all token pairs lie between two blocks
        operations, products = 40 + 20 * log2(size / 4), states * pairs / 2 + applied
    if not fed_back:
        return Window(held + states * channels, operations, 1, products, pairs)
    # with the loop open and closed, the state carried in double precision
    held = 2 * held + states * (channels + 4 * fed_back)
    products += fed_back * (inputs + states) * (fed_back / 2 + outputs)
    products += fed_back * states * (inputs + 2 * channels)
    return Window(held, operations + 30, 4, products, pairs)


def _is_scalar(A: Transition) -> bool:
    one_decay = isinstance(A, DiagonalPlusLowRank) and A.decay.stride(-1) == 0
    return one_decay or isinstance(A, ScaledIdentity)
