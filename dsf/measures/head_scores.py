"""What a head looks at: the token before it, earlier copies, what followed them, the first token.

The scores are shares of each row's absolute weight, or with ``net`` its signed part. Rows without a
candidate and rows of zeros are left out; a map without any other row has the score ``nan``.

Source of the names: Elhage et al. 2021, "A mathematical framework for transformer circuits" and
Olsson et al. 2022, "In-context learning and induction heads", for weights of softmax attention.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.measures.fold import MapOrSystem, a_token, per_row, real
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import ShapeError

Scores = Shaped[Tensor, "*batch"]
Candidates = Callable[[Rows], Bool[Tensor, "*sample rows columns"]]


@checked
def previous_token(map_or_system: MapOrSystem, *, net: bool = False) -> Scores:
    """Share of the weight on the token just before, from 0 to 1; from -1 to 1 with ``net``.

    >>> previous_token(torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 3, 1]]))
    tensor(0.6250)
    """
    return _mean_share("previous_token", map_or_system, lambda rows: rows.lag == 1, net)


@checked
def first_token(map_or_system: MapOrSystem, *, net: bool = False) -> Scores:
    """Share of the weight that later tokens put on the first, 0 to 1; -1 to 1 with ``net``."""
    return _mean_share(
        "first_token", map_or_system, lambda rows: (rows.read == 0) & (rows.lag > 0), net
    )


@checked
def self_token(map_or_system: MapOrSystem, *, net: bool = False) -> Scores:
    """Share of the weight that every token puts on itself, 0 to 1; -1 to 1 with ``net``."""
    return _mean_share("self_token", map_or_system, lambda rows: rows.lag == 0, net)


@checked
def duplicate_token(
    map_or_system: MapOrSystem, tokens: Int[Tensor, "*sample time"], *, net: bool = False
) -> Scores:
    """Share of the weight on earlier copies of the same token, 0 to 1; -1 to 1 with ``net``.

    Args:
        tokens: numbers of the tokens, one sequence for all maps or one for each sample.

    >>> map = torch.tensor([[1.0, 0, 0], [0, 1, 0], [3, 0, 1]])
    >>> duplicate_token(map, torch.tensor([7, 8, 7]))
    tensor(0.7500)
    """

    def copies(rows: Rows) -> Tensor:
        there = tokens.to(rows.read.device)
        own, other = there[..., rows.written, None], there[..., None, rows.read]
        return (own == other) & (rows.lag > 0)

    return _mean_share("duplicate_token", map_or_system, copies, net, tokens)


@checked
def induction(
    map_or_system: MapOrSystem, tokens: Int[Tensor, "*sample time"], *, net: bool = False
) -> Scores:
    """Share of the weight on tokens that follow an earlier copy of the token, 0 to 1.

    With ``net`` -1 to 1. A head with this score predicts that what followed before follows again.

    Args:
        tokens: numbers of the tokens, one sequence for all maps or one for each sample.

    >>> map = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 4, 1, 0], [0, 0, 0, 1]])
    >>> induction(map, torch.tensor([7, 8, 7, 9]))
    tensor(0.8000)
    """

    def followers(rows: Rows) -> Tensor:
        there = tokens.to(rows.read.device)
        own, previous = there[..., rows.written, None], there.roll(1, -1)[..., None, rows.read]
        return (own == previous) & (rows.lag > 0) & (rows.read > 0)

    return _mean_share("induction", map_or_system, followers, net, tokens)


@checked
def needle(map_or_system: MapOrSystem, *, query: int, key: int, net: bool = False) -> Scores:
    """Share of the weight of token ``query`` that it puts on token ``key``, 0 to 1.

    On a device, from which nothing is fetched, it is NaN where the map has no such tokens.

    Raises:
        IndexError: if the map has no such tokens, which are counted from 0.
    """
    query = a_token("needle", "query", query, None)
    key = a_token("needle", "key", key, map_or_system)
    found = []

    def place(rows: Rows) -> Tensor:
        there = (rows.written[:, None] == query) & (rows.read == key)
        found.append(there.any())
        return there

    share = _mean_share("needle", map_or_system, place, net)
    if share.device.type == "cpu" and not any(found):
        raise IndexError(
            f"needle: the map has no tokens query={query} and key={key}; they are counted from 0."
        )
    return share


@checked
def copying(map_or_system: MapOrSystem, effects: Shaped[Tensor, "*sample read"]) -> Scores:
    """Whether reading a token raises the logit of that token: from -1 (lowers it) to 1 (raises it).

    The sum of ``map[i, j] effects[j]`` over the sum of its absolute values: a negative weight on a
    value that lowers the logit of its token copies it, too.

    Args:
        effects: what one unit of the value of token ``j``, through the output projection and the
            unembedding, adds to the logit of token ``j`` itself, less the mean over the vocabulary.
            One row for all maps, one for each sample, or, with all axes of the map but that of
            the rows, one for each head.

    Raises:
        ShapeError: if the axes of ``effects`` are not the first of the map, or its columns.
        TypeError: if ``effects`` are not real numbers.

    >>> map = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    >>> copying(map, torch.tensor([-3.0, 1.0]))
    tensor(0.1429)
    """
    if effects.is_complex():
        raise TypeError(f"copying: 'effects' must be real numbers, but they are {effects.dtype}.")

    def sums(rows: Rows) -> Tensor:
        _check_axes("copying", "effects", effects, rows)
        there = effects.to(rows.weights.device)[..., None, rows.read]
        raised = real(rows) * _over_heads(there, rows.weights.ndim)
        return torch.stack([raised.sum(dim=-1), raised.abs().sum(dim=-1)], dim=-2)

    both = per_row(map_or_system, sums).sum(dim=-1)
    return both[..., 0] / both[..., 1]


def _mean_share(
    measure: str,
    map_or_system: MapOrSystem,
    candidates: Candidates,
    net: bool,
    tokens: Tensor | None = None,
) -> Tensor:
    """Return the mean share of weight on candidates, over rows that have a candidate."""

    def share(rows: Rows) -> Tensor:
        weights = real(rows)
        if tokens is not None:
            _check_axes(measure, "tokens", tokens, rows)
        chosen = _over_heads(candidates(rows), weights.ndim)
        size = weights.abs().sum(dim=-1)
        on = (weights if net else weights.abs()).where(chosen, 0).sum(dim=-1) / size
        counts = chosen.any(dim=-1).expand_as(on) & (size != 0)
        return torch.stack([on.where(counts, 0), counts.to(on.dtype)], dim=-2)

    shares, counts = per_row(map_or_system, share).unbind(dim=-2)
    return shares.sum(dim=-1) / counts.sum(dim=-1)


def _check_axes(measure: str, name: str, part: Tensor, rows: Rows) -> None:
    """Whether something that is given for tokens has the samples of the map, and enough tokens."""
    if part.shape[-1] <= int(rows.read.max()):
        raise ShapeError(
            f"{measure}: '{name}' has {part.shape[-1]} tokens, but the map reads "
            f"{int(rows.read.max()) + 1}."
        )
    batch, lead = tuple(rows.weights.shape[:-2]), tuple(part.shape[:-1])
    if lead != batch[: len(lead)]:
        raise ShapeError(
            f"{measure}: '{name}' has the axes {lead} before that of its tokens, but those of the "
            f"maps are {batch}, and it must have none of them or the first."
        )


def _over_heads(part: Shaped[Tensor, "*sample rows columns"], axes: int) -> Tensor:
    """The same for all heads of a sample: with as many axes as the maps have."""
    if part.ndim == 2:
        return part
    return part.reshape(*part.shape[:-2], *[1] * (axes - part.ndim), *part.shape[-2:])
