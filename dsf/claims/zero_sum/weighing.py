"""One row of zero-sum weights: from the library's system, and term by term from the definition."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import respond
from dsf.mixers import ZeroSumAttention
from dsf.systems.algebra import adjoint

Weigh = Callable[[Tensor, float, float], Tensor]
"""Logits of the tokens in reach, first order, higher order: one weight for every token."""


def radial(
    logits: Float[Tensor, "*batch time"],
    first: Float[Tensor, "*batch time"],
    higher: Float[Tensor, "*batch time"],
) -> ZeroSumAttention:
    """Zero-sum attention without the angle between query and key; its values are zero."""
    return ZeroSumAttention(
        value=torch.zeros_like(logits).unsqueeze(-1),
        logit=logits,
        first_order=first,
        higher_order=higher,
    )


def last_row(logits: Float[Tensor, " time"], first: float, higher: float) -> Float[Tensor, " time"]:
    """The weights that the library gives the tokens of the last row.

    They are the response of the adjoint system to a unit at the last token: no map is needed.
    """
    ones = torch.ones_like(logits)
    system = radial(logits, first * ones, higher * ones).system()
    unit = torch.zeros_like(logits)
    unit[-1] = 1
    return respond(adjoint(system), unit[:, None, None]).flatten()


def defined_row(
    logits: Float[Tensor, " time"], first: float, higher: float
) -> Float[Tensor, " time"]:
    """The same weights from their definition; nothing is shared with the system."""
    tokens = len(logits)
    deviation = (logits - logits.mean()) / tokens
    rest = torch.softmax(logits, dim=-1) - 1 / tokens - deviation
    return first * deviation + higher * rest


def causal_map(
    mixer: ZeroSumAttention, weigh: Weigh = defined_row
) -> Float[Tensor, "*batch rows columns"]:
    """Every row of the map of ``mixer`` by ``weigh``, times the cosine where it has directions."""
    steps = mixer.logit.shape[-1]
    rows = mixer.logit.new_zeros(mixer.logit[..., 0].numel(), steps, steps)
    parts = (mixer.logit, mixer.first_order, mixer.higher_order)
    for head, (logits, first, higher) in enumerate(
        zip(*(part.reshape(-1, steps) for part in parts), strict=True)
    ):
        for t in range(steps):
            rows[head, t, : t + 1] = weigh(logits[: t + 1], float(first[t]), float(higher[t]))
    weights = rows.reshape(*mixer.logit.shape, steps)
    if mixer.query is None or mixer.key is None:
        return weights
    query = mixer.query / mixer.query.norm(dim=-1, keepdim=True)
    key = mixer.key / mixer.key.norm(dim=-1, keepdim=True)
    return weights * (query @ key.mT)
