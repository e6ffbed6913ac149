"""Which states of a selective layer are kept, and what the kept ones read in place of the rest.

A state that is left out takes ``read_k(t) h_k(t)`` away from the response. The other states can
take over part of it: with ``h_k ≈ sum_l M_kl h_l`` over the kept states l, the same for all
channels, the reads become ``read'_l = sum_k M_kl read_k``. That is a projection of the states by
their products on the data, and a change of rows of parameters.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.smaller_states.layers import Products, Roles

RIDGE = 1e-9
"""Relative to the mean of the diagonal: keeps the least squares solvable."""


@dataclass(frozen=True, eq=False)
class Smaller:
    """A choice of states.

    Attributes:
        kept: their numbers.
        takes: by how much each kept state (column) reads for every state (row) from now on.
        error: the error of the layer's response on the data, relative, with its input held.
    """

    kept: tuple[int, ...]
    takes: Float[Tensor, "state kept"]
    error: float


def only(kept: tuple[int, ...], found: Products) -> Smaller:
    """These states, with nothing in place of the others."""
    takes = torch.eye(found.states, dtype=torch.float64)[:, list(kept)]
    return Smaller(kept, takes, _error(kept, takes, found))


def projected(kept: tuple[int, ...], found: Products) -> Smaller:
    """These states, reading for the others what the data make best (least squares)."""
    takes = _best(kept, found)
    return Smaller(kept, takes, _error(kept, takes, found))


def strongest(order: int, found: Products) -> tuple[int, ...]:
    """The states whose own contribution to the response has the largest energy."""
    own = found.gram.diagonal().reshape(found.states, -1).diagonal()
    return tuple(sorted(own.argsort(descending=True)[:order].tolist()))


def drawn(order: int, found: Products, seed: int) -> tuple[int, ...]:
    """States drawn at random."""
    rng = torch.Generator().manual_seed(seed)
    return tuple(sorted(torch.randperm(found.states, generator=rng)[:order].tolist()))


def best(order: int, found: Products) -> Smaller:
    """Of all choices of so many states the one whose projection has the smallest error.

    Choices are first ranked by the error without projection; the best hundred are projected.
    """
    own = [k * found.states + k for k in range(found.states)]
    energy = found.gram[own][:, own]
    choices = torch.tensor(list(combinations(range(found.states), order)))
    left = torch.ones(len(choices), found.states, dtype=torch.float64)
    left.scatter_(1, choices, 0.0)
    errors = torch.einsum("ck,kl,cl->c", left, energy, left)
    ranked = errors.argsort()[:100]
    tried = [projected(tuple(choices[k].tolist()), found) for k in ranked.tolist()]
    return min(tried, key=lambda each: each.error)


def _pairs(kept: tuple[int, ...], found: Products) -> list[int]:
    return [k * found.states + state for k in range(found.states) for state in kept]


def _whole(found: Products) -> list[int]:
    return [k * found.states + k for k in range(found.states)]


def _best(kept: tuple[int, ...], found: Products) -> Tensor:
    pairs = _pairs(kept, found)
    gram = found.gram[pairs][:, pairs]
    target = found.gram[pairs][:, _whole(found)].sum(dim=1)
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(pairs), dtype=gram.dtype)
    return torch.linalg.solve(gram, target).reshape(found.states, len(kept))


def _error(kept: tuple[int, ...], takes: Tensor, found: Products) -> float:
    """The norm of the change of the response over that of the response."""
    change = torch.zeros(found.states**2, dtype=torch.float64)
    change[_whole(found)] = 1
    size = change @ found.gram @ change
    change[_pairs(kept, found)] -= takes.flatten()
    return ((change @ found.gram @ change).clamp(min=0) / size).sqrt().item()


def smaller_weights(layer: nn.Module, roles: Roles, chosen: Smaller) -> dict[str, Tensor]:
    """The parameters of the layer with fewer states, under their own names."""
    states, kept = layer.A_log.shape[-1], list(chosen.kept)
    parts = {name: part.detach().clone() for name, part in layer.state_dict().items()}
    parts["A_log"] = parts["A_log"][:, kept]
    for name in (f"{roles.chosen}.weight", f"{roles.chosen}.bias"):
        if name in parts:
            rows = parts[name]
            rank, write, read = rows.split([len(rows) - 2 * states, states, states])
            takes = chosen.takes.to(rows)
            parts[name] = torch.cat([rank, write[kept], takes.mT @ read])
    return parts
