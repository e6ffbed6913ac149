"""Rows of zero-sum weights: from the library's system, term by term, and as code has them."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

import dsf
from dsf import mixers
from papers.drawn import generator, normal

Weigh = Callable[[Tensor, float, float], Tensor]
"""Logits of the tokens in reach, first order, higher order: one weight for every token."""


def drawn_mixer(*, steps: int, width: int, heads: int) -> mixers.ZeroSumAttention:
    """Directions, values and logits standard normal, orders sigmoids of normals."""
    rng = generator()
    query, key, value = (normal(rng, heads, steps, width) for _ in range(3))
    logit, first, higher = (normal(rng, heads, steps) for _ in range(3))
    return mixers.ZeroSumAttention(
        query=query,
        key=key,
        value=value,
        logit=logit,
        first_order=first.sigmoid(),
        higher_order=higher.sigmoid(),
    )


def radial(logits: Tensor, first: Tensor, higher: Tensor) -> mixers.ZeroSumAttention:
    """Zero-sum attention without the angle between query and key; its values are zero."""
    return mixers.ZeroSumAttention(
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
    return dsf.respond(dsf.systems.algebra.adjoint(system), unit[:, None, None]).flatten()


def defined_row(logits: Tensor, first: float, higher: float) -> Float[Tensor, " time"]:
    """The same weights from their definition; nothing is shared with the system."""
    tokens = len(logits)
    deviation = (logits - logits.mean()) / tokens
    rest = torch.softmax(logits, dim=-1) - 1 / tokens - deviation
    return first * deviation + higher * rest


def from_probabilities(logits: Tensor, first: float, higher: float) -> Tensor:
    """SequenceLab's path without a scan: its first order deviates in softmax(s), not in s."""
    tokens = len(logits)
    share = torch.softmax(logits, dim=-1)
    deviation = (logits - logits.mean()) / tokens
    return first * (share - share.mean()) / tokens + higher * (share - 1 / tokens - deviation)


def causal_map(mixer: mixers.ZeroSumAttention, weigh: Weigh = defined_row) -> Tensor:
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
    return weights * (normalize(mixer.query, dim=-1) @ normalize(mixer.key, dim=-1).mT)


def read_factors(mixer: mixers.ZeroSumAttention) -> Float[Tensor, "*batch time 3"]:
    """The factors of the reading token on the sums of e^s, s and 1."""
    tokens = torch.arange(1, mixer.logit.shape[-1] + 1, dtype=mixer.logit.dtype)
    mean = mixer.logit.cumsum(dim=-1) / tokens
    first, higher = mixer.first_order / tokens, mixer.higher_order / tokens
    total = mixer.logit.exp().cumsum(dim=-1)
    factors = [mixer.higher_order / total, first - higher, mean * (higher - first) - higher]
    return torch.stack(factors, dim=-1)


# ---- SequenceLab's scan, written down again in a few lines

Stabiliser = Callable[[Tensor], Tensor]
"""What is taken from every logit before the exponential."""


def largest_of_all(logits: Float[Tensor, " time"]) -> Float[Tensor, ""]:
    """The maximum of the whole sequence, the future included."""
    return logits.max()


def stabilised_outputs(logits: Tensor, values: Tensor, stabiliser: Stabiliser) -> Tensor:
    """The scan without the angle at gates 1/2, in the number type of its arguments."""
    tokens = torch.arange(1, len(logits) + 1, dtype=logits.dtype).unsqueeze(-1)
    raised = (logits - stabiliser(logits)).exp().unsqueeze(-1)
    total = raised.cumsum(dim=0) + 1e-12
    return ((raised * values).cumsum(dim=0) / total - values.cumsum(dim=0) / tokens) / 2


States = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""Exponentials, logits, keys, values: every tensor that is held for the sums."""


def all_states(raised: Tensor, logits: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """The products of every token and the three running sums, for all tokens at once."""
    product = key.unsqueeze(-1) * value.unsqueeze(-2)
    sums = [(scale[:, None, None] * product).cumsum(dim=0) for scale in (raised, logits)]
    return (product, *sums, product.cumsum(dim=0))


def last_states(raised: Tensor, logits: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """The three sums, one token after the other."""
    sums = value.new_zeros(3, key.shape[-1], value.shape[-1])
    scales = torch.stack([raised, logits, torch.ones_like(logits)], dim=-1)
    for t in range(len(key)):
        sums = sums + scales[t, :, None, None] * torch.outer(key[t], value[t])
    return tuple(sums)


# ---- SequenceLab's layer around it


def interleaved_and_halved(x: Tensor, position: Tensor) -> Float[Tensor, "time key"]:
    """Angles laid out for neighbouring pairs, signs and partners for split halves."""
    width = x.shape[-1]
    speed = 10_000.0 ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = (position.unsqueeze(-1) * speed).repeat_interleave(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def rotated(x: Tensor, position: Tensor) -> Float[Tensor, "time key"]:
    """A rotation: angles and partners of split halves."""
    speed = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2, dtype=x.dtype) / x.shape[-1])
    angle = (position.unsqueeze(-1) * speed).repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def mean_by_own_place(u: Tensor, prior: Tensor) -> Float[Tensor, "time width"]:
    """The sum over all tokens, divided by the number of tokens so far, of the encoder form."""
    number = torch.arange(1, len(u) + 1, dtype=u.dtype).unsqueeze(-1)
    return (prior + u.sum(dim=0)) / (1 + number)
