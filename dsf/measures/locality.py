"""Where the weight of a row lies (windows, neighbourhoods, lags, sinks), and how widely spread."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.evaluate.arguments import check_finite, check_forward, norm
from dsf.evaluate.windows import fold
from dsf.measures import fold as folds
from dsf.measures.passes import Measured, reduced
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least
from dsf.systems.system import System

BLOCK = 256
HALF = 0.5
LONGEST = 2**62
"""Distances beyond it are beyond the numbers of torch, and no map is as long."""


@checked
def window_mass(map_or_system: Measured, *, width: int) -> Shaped[Tensor, "*batch rows"]:
    """Share of a row's absolute weight that falls on its last ``width`` tokens, its own included.

    Between 0 and 1; ``nan`` for a row of zeros.

    Raises:
        ValueError: if ``width`` is below 1.

    >>> window_mass(torch.tensor([[1.0, 0, 0], [1, 3, 0], [2, -1, 1]]), width=1)
    tensor([1.0000, 0.7500, 0.2500])
    """
    width = _at_least_one("window_mass", width)
    close, everything = reduced(map_or_system, folds.near(width), folds.MASS)
    return close / everything


@checked
def window_sums(system: System, *, width: int) -> Shaped[Tensor, "*batch rows"]:
    """The signed sum of the last ``width`` entries of every row, its own token included.

    Linear in the map, so only the band of that width is computed: O(time x width). Divided by
    ``row_sums`` it is the window mass of a map without negative entries.

    Raises:
        ValueError: if ``width`` is below 1, or the system runs backward.
    """
    width = _at_least_one("window_sums", width)
    check_forward("window_sums", system)
    boundaries = [*range(0, system.steps, BLOCK), system.steps]
    return torch.cat([_band(system, *span, width) for span in pairwise(boundaries)], dim=-1)


def _band(system: System, start: int, stop: int, width: int) -> Tensor:
    first = max(0, start - width + 1)
    panel = fold(system, first, stop)
    weights = panel.local.real if system.takes_real_part else panel.local
    token = torch.arange(first, stop, device=system.device)
    written = token.repeat_interleave(system.output_size)
    read = token.repeat_interleave(system.input_size)
    inside = written[:, None] - read < width
    return (weights * inside).sum(dim=-1)[..., written >= start]


@checked
def neighbourhood_mass(
    map_or_system: folds.MapOrSystem, *, grid: tuple[int, int], radius: int = 1
) -> Shaped[Tensor, "*batch rows"]:
    """Share of a row's absolute weight on the tokens at most ``radius`` away in rows and columns.

    For tokens laid out row by row on a ``grid`` of height x width; ``radius=1`` is the 3 x 3
    neighbourhood. Between 0 and 1; ``nan`` for a row of zeros. ``uniform_neighbourhood`` is the
    value for uniform attention.

    Raises:
        ValueError: if the grid does not have as many positions as the map has tokens.

    >>> neighbourhood_mass(torch.full((9, 9), 1 / 9), grid=(3, 3))[4]
    tensor(1.)
    """
    radius = _check_grid("neighbourhood_mass", grid, radius)

    def share(rows: Rows) -> Tensor:
        weight = rows.weights.abs()
        tokens, places = int(rows.read.max()) + 1, grid[0] * grid[1]
        if places != tokens:
            raise ValueError(
                f"neighbourhood_mass: a grid of {grid[0]} x {grid[1]} has {places} positions, but "
                f"the map has {tokens} tokens. Leave out class tokens first."
            )
        around = _neighbours(rows.written, rows.read, grid, radius)
        return (weight * around).sum(dim=-1) / weight.sum(dim=-1)

    return folds.per_row(map_or_system, share)


@checked
def uniform_neighbourhood(
    *, grid: tuple[int, int], radius: int = 1, edge_aware: bool = True, extra_tokens: int = 0
) -> float:
    """The mean neighbourhood mass of uniform attention on ``grid``.

    With ``edge_aware`` only positions inside the grid count; otherwise every neighbourhood has
    ``(2 radius + 1)²`` of them, as in the InLine paper with one class token (``extra_tokens=1``):
    9/197 on 14 x 14.

    >>> round(uniform_neighbourhood(grid=(14, 14), edge_aware=False, extra_tokens=1), 4)
    0.0457
    """
    radius = _check_grid("uniform_neighbourhood", grid, radius)
    at_least(0, "uniform_neighbourhood", "extra_tokens", extra_tokens)
    height, width = grid
    tokens = height * width
    if not edge_aware:
        return (2 * radius + 1) ** 2 / (tokens + extra_tokens)
    token = torch.arange(tokens)
    around = _neighbours(token, token, grid, radius).sum(dim=-1).double().mean().item()
    return around / (tokens + extra_tokens)


@checked
def mean_distance(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """Mean distance of the keys that a query reads, in tokens, weighted by absolute weight.

    At least 0; ``nan`` for a row of zeros. Later tokens count with their distance too.

    >>> mean_distance(torch.tensor([[1.0, 0, 0], [1, 3, 0], [2, -1, 1]]))
    tensor([0.0000, 0.2500, 1.2500])
    """
    distance, everything = reduced(map_or_system, folds.DISTANCE, folds.MASS)
    return distance / everything


@checked
def mass_by_lag(map_or_system: Measured) -> Shaped[Tensor, "*batch time"]:
    """Mean absolute weight at every lag 0, 1, ... in tokens, over the rows that reach that far.

    >>> mass_by_lag(torch.tensor([[1.0, 0, 0], [1, 3, 0], [2, -1, 1]]))
    tensor([1.6667, 1.0000, 2.0000])
    """
    (by_lag,) = reduced(map_or_system, folds.BY_LAG)
    sums, counts = by_lag
    return sums / counts


@checked
def half_life(map_or_system: Measured) -> Shaped[Tensor, "*batch"]:
    """The smallest lag, in tokens, that covers half of the mass by lag.

    From 0 (half of the weight on the token itself) to time - 1; -1 if a mass is ``nan``.

    >>> half_life(torch.tensor([[1.0, 0, 0], [1, 3, 0], [2, -1, 1]]))
    tensor(1)
    """
    mass = mass_by_lag(map_or_system)
    reached = mass.cumsum(dim=-1) / mass.sum(dim=-1, keepdim=True)
    found = (reached < HALF).sum(dim=-1)
    return torch.where(reached.isnan().any(dim=-1), -1, found)


def _at_least_one(measure: str, width: int) -> int:
    return min(at_least(1, measure, "width", width, " token"), LONGEST)


def _check_grid(measure: str, grid: tuple[int, int], radius: int) -> int:
    for place, size in enumerate(grid):
        at_least(1, measure, f"grid[{place}]", size)
    return min(at_least(0, measure, "radius", radius), LONGEST)


def _neighbours(
    written: Tensor, read: Tensor, grid: tuple[int, int], radius: int
) -> Bool[Tensor, "rows columns"]:
    width = grid[1]
    down = (written[:, None] // width - read // width).abs()
    across = (written[:, None] % width - read % width).abs()
    return (down <= radius) & (across <= radius)


THRESHOLD = 0.3


@checked
def sink_mass(map_or_system: Measured, *, token: int = 0) -> Shaped[Tensor, "*batch"]:
    """Share of the map's absolute weight that falls on ``token``, between 0 and 1.

    Queries at ``token`` or before it are left out. ``nan`` if no weight is left.

    Raises:
        IndexError: if the map has no such token, counted from 0.

    >>> sink_mass(torch.tensor([[1.0, 0, 0], [1, 3, 0], [2, -1, 1]]))
    tensor(0.3750)
    """
    folds.a_token("sink_mass", "token", token, map_or_system)
    found = reduced(map_or_system, folds.on(token), folds.MASS, folds.WRITTEN)
    on_token, everything, written = found
    later = written > token
    return on_token.where(later, 0).sum(dim=-1) / everything.where(later, 0).sum(dim=-1)


@checked
def sink_rate(
    map_or_system: Measured, *, token: int = 0, threshold: float = THRESHOLD
) -> Shaped[Tensor, ""]:
    """Share of the maps of the batch in which ``token`` is a sink, between 0 and 1.

    A token is a sink when later queries give it more than ``threshold`` of their absolute weight.
    For maps without negative entries whose rows sum to one this is the usual sink rate; for signed
    maps the absolute weights are counted. ``nan`` if the share of one map is ``nan``.

    Raises:
        ValueError: if ``threshold`` is not strictly between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"sink_rate: 'threshold' must lie between 0 and 1, but it is {threshold}.")
    folds.a_token("sink_rate", "token", token, map_or_system)
    mass = sink_mass(map_or_system, token=token)
    return torch.where(mass.isnan(), mass, (mass > threshold).to(mass.dtype)).mean()


@checked
def row_entropy(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """Shannon entropy of every row's absolute weights, normalised to sum one, in nats.

    From 0 (all weight on one token) to log n (equal weight on n tokens); ``nan`` for a row of
    zeros. For rows without negative entries that sum to one it is the usual attention entropy.

    >>> row_entropy(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    size, surprise = reduced(map_or_system, folds.MASS, folds.SURPRISE)
    # log S - sum w log w / S needs one pass less over the weights than normalising them first
    return (size.log() - surprise / size).clamp(min=0)


@checked
def effective_tokens(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """The effective number of tokens that a row reads: the exponential of its entropy, 1 ... time.

    >>> effective_tokens(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor([1., 2.])
    """
    return row_entropy(map_or_system).exp()


@checked
def effective_rank(map_or_system: folds.MapOrSystem) -> Shaped[Tensor, "*batch"]:
    """The exponential of the entropy of the singular values, normalised to sum one: 1 ... time.

    A property of the map as a matrix, not of a recurrent state: a causally masked map of rank-one
    weights has full rank (see ``hankel_ranks`` for the number of states). Stores the whole map.
    ``nan`` for a zero map.

    Raises:
        ValueError: if the map is not finite.

    Source: Roy & Vetterli 2007, "The effective rank".

    >>> effective_rank(torch.eye(3))
    tensor(3.)
    """
    parts = [rows.weights for rows in folds.blocks(map_or_system, overwrites=False)]
    weights = torch.cat(parts, dim=-2)
    check_finite("effective_rank", "map_or_system", weights)
    values = torch.linalg.svdvals(weights)
    share = values / values.sum(dim=-1, keepdim=True)
    # zero where a share is zero, in value and in gradient
    safe = torch.where(share > 0, share, 1)
    return torch.exp(-(share * safe.log()).sum(dim=-1))


@checked
def uniformity_gap(map_or_system: folds.MapOrSystem) -> Shaped[Tensor, "*batch rows"]:
    """The l2 distance of every row from uniform weights 1/n over the n tokens that it may read.

    At least 0. In a causal map, whose weights on later tokens are all zero, query i may read the
    tokens up to its own, otherwise all. Each map of the batch is causal or not as a whole.

    >>> uniformity_gap(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0., 0.])
    """

    def gaps(rows: Rows) -> Tensor:
        ahead = folds.AHEAD.look(rows)
        behind = (rows.lag >= 0).to(ahead.dtype)
        uniform = behind / behind.sum(dim=-1, keepdim=True)
        everything = torch.full_like(uniform, 1 / uniform.shape[-1])
        found = [norm(rows.weights - uniform), norm(rows.weights - everything)]
        return torch.stack([ahead, *found], dim=-2)

    ahead, if_causal, otherwise = folds.per_row(map_or_system, gaps).unbind(dim=-2)
    return torch.where((ahead == 0).all(dim=-1, keepdim=True), if_causal, otherwise)


@checked
def uniform_share(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """Share of a row's energy in its uniform part: (row sum)² / (n |row|²).

    Between 0 and 1: 1 for uniform weights, 0 for rows that sum to zero, ``nan`` for a row of zeros.
    n counts the tokens up to the query's own in a causal map, otherwise all of them.
    For softmax with bounded logits it stays above a bound, however long the row (dilution).

    Source: the dilution argument of ZeroS, arXiv:2602.05230.

    >>> uniform_share(torch.tensor([[1.0, 0.0], [0.5, -0.5]]))
    tensor([1., 0.])
    """
    sums, size, *tokens = reduced(map_or_system, folds.SUM, folds.NORM, *folds.REACH)
    return (sums.abs() / size).square() / folds.in_reach(*tokens)
