"""Attention sinks: tokens on which most queries put much of their weight."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.measures.fold import a_token
from dsf.measures.passes import Measured, reduced
from dsf.measures.row_reductions import MASS, WRITTEN, on
from dsf.runtime.argument_checks import checked

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

    a_token("sink_mass", "token", token, map_or_system)
    wanted = (on(token), MASS, WRITTEN)
    on_token, everything, written = reduced(map_or_system, *wanted, measure="sink_mass")
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
    a_token("sink_rate", "token", token, map_or_system)
    mass = sink_mass(map_or_system, token=token)
    return torch.where(mass.isnan(), mass, (mass > threshold).to(mass.dtype)).mean()
