"""Hankel singular values: how strongly signals up to each token affect the responses after it.

The block at token t, ``map[t+1:, :t+1]``, maps the signals up to t to the responses after t. Its
rank is the number of states that any system with this map needs there, and its singular values do
not depend on state coordinates. Where all of them are above a threshold, the image of a few random
columns under the inverse shows it; elsewhere they are computed.

Source: Halko, Martinsson & Tropp 2011, arXiv:0909.4061, for the random columns.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.evaluate.arguments import check_finite, check_forward
from dsf.evaluate.realisation import GATHERED, WINDOW, observed, triangular
from dsf.evaluate.windows import fold
from dsf.measures.fold import Map, blocks, frobenius, widened
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import a_share, above_zero
from dsf.runtime.threads import each_in_parallel
from dsf.systems.algebra import select, with_conjugates
from dsf.systems.composite import Operator, kept_rows
from dsf.systems.system import System

SMALL = 128
"""Of smaller matrices all singular values are computed, which takes no longer."""
WIDTH = 16
"""Random columns."""
DOUBT = 1e-12
"""The probability with which the random columns may be so bad that a bound from above fails."""
TOGETHER = 1 << 21
"""Numbers of matrices that are formed at once."""
SHORTEST = math.sqrt(2) * (DOUBT * math.gamma(WIDTH / 2 + 1)) ** (1 / WIDTH)
"""But for the probability ``DOUBT``, ``WIDTH`` normal numbers have at least this length."""


def numerical_ranks(
    matrices: Shaped[Tensor, "*batch rows columns"], tolerance: float
) -> Int[Tensor, "*batch"]:
    """How many singular values of each matrix are above ``tolerance`` times the largest."""

    def rank(matrix: Tensor) -> int:
        if _is_full(matrix, tolerance):
            return min(matrix.shape)
        values = torch.linalg.svdvals(matrix)
        return int((values > tolerance * values[0]).sum())

    flat = matrices.detach().reshape(-1, *matrices.shape[-2:])
    found = torch.tensor(list(each_in_parallel(rank, flat.unbind(0))), dtype=torch.int64)
    return found.to(matrices.device).view(matrices.shape[:-2])


def together(size: int) -> int:
    return max(torch.get_num_threads(), TOGETHER // size**2)


def _is_full(matrix: Tensor, tolerance: float) -> bool:
    """Whether all singular values are above, as far as the factors of the matrix show it.

    Only in double precision: rounding of the factors in single precision hides small values.
    """
    if min(matrix.shape) < SMALL or matrix.dtype is not torch.float64:
        return False
    if matrix.shape[0] != matrix.shape[1]:
        tall = matrix if matrix.shape[0] > matrix.shape[1] else matrix.mT
        matrix = torch.linalg.qr(tall, mode="r").R
    matrix = matrix / matrix.abs().max()  # so that no power of it leaves the range of numbers
    factors, pivots, failed = torch.linalg.lu_factor_ex(matrix)
    growth = float(factors.abs().max())
    if bool(failed) or not math.isfinite(growth):
        return False
    rounded = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * growth
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(matrix.shape[-1], WIDTH, generator=rng).to(matrix)
    # With B the inverse and random columns Ω, |B Ω| is at least |B|, and |B Bᵀ B Ω| at least |B|³,
    # times the length of as many normal numbers as Ω has columns.
    size = float(torch.linalg.matrix_norm(matrix)) * (tolerance + rounded)
    for power, sides in ((1, (False,)), (3, (True, False))):
        for adjoint in sides:
            images = torch.linalg.lu_solve(factors, pivots, images, adjoint=adjoint)
        length = float(torch.linalg.matrix_norm(images)) / SHORTEST
        if length ** (1 / power) * size < 1:
            return True
    return False


TOLERANCE = 1e-10


@checked
def hankel_singular_values(
    map_or_system: Map | Operator,
    *,
    positions: Sequence[int] | None = None,
) -> Shaped[Tensor, "*batch positions order"]:
    """Singular values of the Hankel blocks after the tokens ``positions``, largest first.

    For a system of N states they are computed from factors of the two Gramians, carried between the
    positions by QR decompositions: O(time x N²), accurate to the rounding of the largest, and never
    a time x time matrix. For a map, by decomposing its blocks; shorter lists are padded with zeros.

    Args:
        map_or_system: a square map, or a causal system.
        positions: tokens counted from 0; by default every token but the last.

    Raises:
        IndexError: if a position has no token after it.
        ValueError: if the map is not square or not finite, or the system runs backward.
    """
    map_or_system = widened(map_or_system)
    chosen = _chosen(map_or_system, positions)
    if not ranks_from_states(map_or_system):
        lists = [torch.linalg.svdvals(block) for block in _blocks(map_or_system, chosen)]
        width = max(values.shape[-1] for values in lists)
        padded = [torch.nn.functional.pad(each, (0, width - each.shape[-1])) for each in lists]
        return torch.stack(padded, dim=-2)
    system = cast("System", map_or_system)
    check_forward("hankel_singular_values", system)
    plain = with_conjugates(system) if system.takes_real_part else system
    ordered = sorted(set(chosen))
    reached = dict(zip(ordered, _reached(plain, ordered), strict=True))
    seen = dict(zip(reversed(ordered), observed(plain, ordered), strict=True))
    return torch.stack([torch.linalg.svdvals(seen[t] @ reached[t]) for t in chosen], dim=-2)


@checked
def hankel_ranks(
    map_or_system: Map | Operator,
    *,
    tolerance: float = TOLERANCE,
    positions: Sequence[int] | None = None,
) -> Int[Tensor, "*batch positions"]:
    """The number of states needed after each token: the effective state size.

    Counts singular values above ``tolerance`` times the largest of all positions. At most N for a
    system of N states; generic softmax attention reaches ``min(t + 1, time - t - 1)``. For one
    position of a map, or of attention, the block is decomposed only where its factors leave the
    number open: (time / 2)³ operations for each head at the middle token.
    """
    a_share("hankel_ranks", "tolerance", tolerance)
    map_or_system = widened(map_or_system)
    if positions is not None and len(positions) == 1 and not ranks_from_states(map_or_system):
        (token,) = _chosen(map_or_system, positions)
        return _ranks_at(map_or_system, token, tolerance).unsqueeze(-1)
    values = hankel_singular_values(map_or_system, positions=positions)
    largest = values.amax(dim=(-2, -1), keepdim=True)
    return (values > tolerance * largest).sum(dim=-1)


def ranks_from_states(map_or_system: Map | Operator) -> bool:
    """Whether the blocks are products of factors whose inner size is the number of states."""
    return isinstance(map_or_system, System) and kept_rows(map_or_system) is None


def _chosen(map_or_system: Map | Operator, positions: Sequence[int] | None) -> list[int]:
    if isinstance(map_or_system, Tensor):
        *_, rows, steps = map_or_system.shape
        if rows != steps:
            raise ValueError(
                f"hankel_singular_values: 'map_or_system' must be a square map, but its shape is "
                f"{tuple(map_or_system.shape)}."
            )
    else:
        steps = map_or_system.steps
    chosen = list(range(steps - 1)) if positions is None else list(positions)
    if not chosen or min(chosen) < 0 or max(chosen) >= steps - 1:
        raise IndexError(
            f"hankel_singular_values: positions must lie between 0 and {steps - 2}, since a block "
            f"needs a token after it, but 'positions' is {chosen}."
        )
    return chosen


def _blocks(map_or_system: Map | Operator, positions: list[int]) -> list[Tensor]:
    """The Hankel block after each position, from the rows after the first of them alone."""
    start = min(positions) + 1
    outputs, inputs = 1, 1
    if isinstance(map_or_system, Tensor):
        rows = map_or_system[..., start:, :]
    else:
        outputs, inputs = map_or_system.output_size, map_or_system.input_size
        rows = attention_map(map_or_system, slice(start, None))
    blocks = [rows[..., (t + 1 - start) * outputs :, : (t + 1) * inputs] for t in positions]
    check_finite("hankel_singular_values", "map_or_system", *blocks)
    return blocks


def _ranks_at(source: Map | Operator, token: int, tolerance: float) -> Int[Tensor, "*batch"]:
    """The ranks of the blocks after a token; of an operator of a few maps at a time."""
    steps = source.shape[-1] if isinstance(source, Tensor) else source.steps
    most = together(min(steps - token - 1, token + 1))
    if isinstance(source, Tensor) or source.batch.numel() <= most:
        (block,) = _blocks(source, [token])
        return numerical_ranks(block, tolerance)
    axis = next(axis for axis, size in enumerate(source.batch) if size > 1)
    half = source.batch[axis] // 2
    halves = (
        select(source, (*axis * [slice(None)], part)) for part in (slice(half), slice(half, None))
    )
    return torch.cat([_ranks_at(each, token, tolerance) for each in halves], dim=axis)


def _reached(system: System, positions: list[int]) -> Iterator[Tensor]:
    """Factors L with L Lᴴ the controllability Gramian after each position."""
    states = system.state_size
    factor = torch.zeros((*system.batch, states, 0), dtype=system.dtype, device=system.device)
    for start, stop in pairwise([0, *(t + 1 for t in positions)]):
        for begin in range(start, stop, WINDOW):
            panel = fold(system, begin, min(begin + WINDOW, stop))
            factor = torch.cat([panel.carried(factor), panel.write], dim=-1)
            if factor.shape[-1] > GATHERED * max(states, WINDOW):
                factor = triangular(factor.mH).mH
        factor = triangular(factor.mH).mH
        yield factor


@checked
def states_needed(map_or_system: Map | Operator, *, error: float) -> Int[Tensor, "*batch"]:
    """The smallest number of states that approximates the map to a relative ``error``.

    The error is in Frobenius norm, relative to that of the map; one number for every map of the
    batch. Computed from the Hankel singular values; ``dsf.evaluate.reduce(map, order=...)`` with
    that order stays within its bound.

    Raises:
        ValueError: if ``error`` is not above 0, or the map holds NaN or infinite numbers.
    """
    error = above_zero("states_needed", "error", error)
    size = frobenius(rows.weights for rows in blocks(map_or_system))
    check_finite("states_needed", "map_or_system", size)
    # relative to the map before they are squared, so that no square leaves the range
    unit = torch.where(size > 0, size, 1)[..., None, None]
    energy = (hankel_singular_values(map_or_system) / unit).square().sum(dim=-2)
    left = energy.flip(-1).cumsum(dim=-1).flip(-1)
    return (left > error**2).sum(dim=-1)
