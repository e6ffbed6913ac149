"""How widely the weight of a row or a map is spread: entropies, effective rank, uniformity."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import Rows
from dsf.evaluate.scaled_norms import norm
from dsf.measures.fold import MapOrSystem, blocks, per_row
from dsf.measures.passes import Measured, reduced
from dsf.measures.row_reductions import AHEAD, BEHIND, COLUMNS, MASS, NORM, SUM, SURPRISE, in_reach
from dsf.runtime.argument_checks import checked


@checked
def row_entropy(map_or_system: Measured) -> Shaped[Tensor, "*batch rows"]:
    """Shannon entropy of every row's absolute weights, normalised to sum one, in nats.

    From 0 (all weight on one token) to log n (equal weight on n tokens); ``nan`` for a row of
    zeros. For rows without negative entries that sum to one it is the usual attention entropy.

    >>> row_entropy(torch.tensor([[1.0, 0.0], [-0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    size, surprise = reduced(map_or_system, MASS, SURPRISE, measure="row_entropy")
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
def effective_rank(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch"]:
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
    parts = [rows.weights for rows in blocks(map_or_system, overwrites=False)]
    weights = torch.cat(parts, dim=-2)
    if not bool(weights.isfinite().all()):
        raise ValueError(
            "effective_rank: 'map_or_system' holds numbers that are NaN or infinite, so it has no "
            "singular values."
        )
    values = torch.linalg.svdvals(weights)
    share = values / values.sum(dim=-1, keepdim=True)
    # zero where a share is zero, in value and in gradient
    safe = torch.where(share > 0, share, 1)
    return torch.exp(-(share * safe.log()).sum(dim=-1))


@checked
def uniformity_gap(map_or_system: MapOrSystem) -> Shaped[Tensor, "*batch rows"]:
    """The l2 distance of every row from uniform weights 1/n over the n tokens that it may read.

    At least 0. In a causal map, whose weights on later tokens are all zero, query i may read the
    tokens up to its own, otherwise all. Each map of the batch is causal or not as a whole.

    >>> uniformity_gap(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0., 0.])
    """

    def gaps(rows: Rows) -> Tensor:
        ahead = AHEAD.look(rows)
        behind = (rows.lag >= 0).to(ahead.dtype)
        uniform = behind / behind.sum(dim=-1, keepdim=True)
        everything = torch.full_like(uniform, 1 / uniform.shape[-1])
        found = [norm(rows.weights - uniform), norm(rows.weights - everything)]
        return torch.stack([ahead, *found], dim=-2)

    ahead, if_causal, otherwise = per_row(map_or_system, gaps).unbind(dim=-2)
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

    wanted = (SUM, NORM, AHEAD, BEHIND, COLUMNS)
    sums, size, *tokens = reduced(map_or_system, *wanted, measure="uniform_share")
    return (sums.abs() / size).square() / in_reach(*tokens)
