"""How many tokens a window has: what every window costs against what grows with its tokens.

Short windows are many: each takes operations to start, and a state that is carried over it. Long
ones hold more pairs of tokens, and larger triangular systems where the structure is of low rank.
"""

from math import ceil, log2
from typing import NamedTuple

from dsf.solve.uncoupled import FEW
from dsf.system import System
from dsf.transition import Dense, DiagonalPlusLowRank, ScaledIdentity, Transition

SIZES = (16, 32, 64, 128, 256)


class Costs(NamedTuple):
    """Nanoseconds on one kind of device.

    Attributes:
        operation: to start one, however small.
        product: a multiplication and an addition inside a product of matrices.
        entry: a pair of tokens, or a number of the state, in all operations that meet it.
        together: entries in the windows that are folded at once. More take more memory, and on a
            processor they leave its cache.
    """

    operation: float
    product: float
    entry: float
    together: int


# By benchmarks/window_sizes.py on a processor, one thread. On graphics cards not measured: such
# that models of published sizes get the 64 to 128 tokens that are published for them.
PROCESSOR = Costs(operation=6e3, product=0.035, entry=3.0, together=1 << 20)
GRAPHICS_CARD = Costs(operation=5e3, product=2e-4, entry=0.02, together=1 << 25)


class Window(NamedTuple):
    """What one window takes, of one sequence but for the operations.

    Attributes:
        held: entries that are there at a time.
        operations: to fold it, or many together.
        moves: operations that carry the state over it.
        products: multiplications inside products of matrices, as far as the size counts.
        entries: pairs of tokens and numbers of the state.
    """

    held: int
    operations: float
    moves: int
    products: float
    entries: float


def window_size(system: System, channels: int, *, alike: bool = False) -> int:
    """The tokens of a window for which the response to so many channels should cost the least.

    A power of two from 16 to 256, by arithmetic on sizes alone.

    Args:
        system: of any structure.
        channels: columns of the signal.
        alike: if nothing changes with time, so that one window is folded for all.
    """
    costs = [cost(system, channels, size, alike=alike) for size in SIZES]
    return SIZES[costs.index(min(costs))]


def stepped_size(system: System, channels: int) -> int:
    """The same where tokens are stepped through: long windows, but all states in the cache."""
    numbers = system.batch.numel() * system.state_size * channels
    return max([size for size in SIZES if size * numbers <= FEW], default=SIZES[0])


def windows_at_once(system: System, channels: int, size: int) -> int:
    """How many windows of ``size`` tokens are folded together."""
    held = system.batch.numel() * _window(system, channels, size).held
    return max(1, _costs(system).together // max(1, held))


def numbers_at_once(system: System, channels: int) -> int:
    """Numbers that are there while windows of the size chosen here are folded together."""
    size = min(window_size(system, channels), system.steps)
    windows = min(windows_at_once(system, channels, size), ceil(system.steps / size))
    return windows * system.batch.numel() * _window(system, channels, size).held


def cost(system: System, channels: int, size: int, *, alike: bool = False) -> float:
    """Nanoseconds of the response in windows of ``size`` tokens, but for what no size changes."""
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
    """Counted along :mod:`dsf.evaluate.windows.folding`."""
    A, states = system.A, system.state_size
    inputs, outputs = size * system.input_size, size * system.output_size
    applied = float(inputs * outputs * channels)
    if isinstance(A, Dense):  # token by token, in double
        held = 2 * (size * states**2 + (states + outputs) * (states + inputs)) + states * channels
        met = states * (states + inputs // 2)
        return Window(held, 5 * size, 4, size * states * met + applied, size * met)
    fed_back = size * A.left.shape[-1] if isinstance(A, DiagonalPlusLowRank) else 0
    pairs = (inputs + fed_back) * (outputs + fed_back)
    held = pairs + states * (inputs + outputs + 2 * fed_back)
    if _is_scalar(A):
        operations, products = 40.0, states * pairs + applied
    else:  # two blocks of tokens make one, half of the pairs between them
        operations, products = 40 + 20 * log2(size / 4), states * pairs / 2 + applied
    if not fed_back:
        return Window(held + states * channels, operations, 1, products, pairs)
    held = 2 * held + states * (channels + 4 * fed_back)  # open and closed, carried in double
    products += fed_back * (inputs + states) * (fed_back / 2 + outputs)
    products += fed_back * states * (inputs + 2 * channels)
    return Window(held, operations + 30, 4, products, pairs)


def _is_scalar(A: Transition) -> bool:
    one_decay = isinstance(A, DiagonalPlusLowRank) and A.decay.stride(-1) == 0
    return one_decay or isinstance(A, ScaledIdentity)
