"""What the released layer does around its scan, written down again in a few lines."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import shown

Turn = Callable[[Tensor, Tensor], Tensor]
"""Vectors and their positions: the turned vectors."""


def interleaved_and_halved(
    x: Float[Tensor, "time key"], position: Float[Tensor, " time"]
) -> Float[Tensor, "time key"]:
    """Angles laid out for neighbouring pairs, signs and partners for split halves."""
    width = x.shape[-1]
    speed = 10_000.0 ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = (position.unsqueeze(-1) * speed).repeat_interleave(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def embedding_is_no_rotation(turn: Turn = interleaved_and_halved) -> Certificate:
    """One query and one key at every place, two tokens apart."""
    lag, tokens = 2, 24
    rng = np.random.default_rng(0)
    position = torch.arange(tokens, dtype=torch.float64)
    query, key = (
        turn(torch.from_numpy(rng.standard_normal(8)).expand(tokens, 8), position) for _ in range(2)
    )
    products = (query[lag:] * key[:-lag]).sum(dim=-1)
    norms = query.norm(dim=-1)
    spread = float(products.max() - products.min())
    return shown(
        "the released rotary embedding is no rotation: products do not depend on the lag alone",
        spread,
        beyond=1e-6,
        case={
            "product_at_places_2_and_0": float(products[0]),
            "products_at_lag_2_spread": spread,
            "largest_over_smallest_norm": float(norms.max() / norms.min()),
        },
        method="width 8, 24 places, lag 2",
    )


Mean = Callable[[Tensor, Tensor], Tensor]
"""Vectors and a prior that counts once: what every token takes for their mean."""


def mean_by_own_place(
    u: Float[Tensor, "time width"], prior: Float[Tensor, " width"]
) -> Float[Tensor, "time width"]:
    """The sum over all tokens, divided by the number of tokens so far."""
    number = torch.arange(1, len(u) + 1, dtype=u.dtype).unsqueeze(-1)
    return (prior + u.sum(dim=0)) / (1 + number)


def encoder_means_are_too_large(mean: Mean = mean_by_own_place) -> Certificate:
    """Six vectors and a prior, all the same: so is their mean."""
    u = torch.ones(6, 1, dtype=torch.float64)
    means = mean(u, u[0]).flatten()
    return shown(
        "the means of the released encoder form are not means over the whole sequence",
        float((means - 1).abs().max()),
        beyond=1e-9,
        case={"tokens": 6, "every_vector": 1.0, "means": means.tolist()},
        method="equal vectors, τ = 0",
    )


CLAIMS = (
    Claim(
        id="ZER-22",
        table=Table.CODE,
        statement=(
            "In SequenceLab the rotary embedding is no rotation: its angles are interleaved "
            "while it turns split halves."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=embedding_is_no_rotation,
        place=("LJC-FVNR/SequenceLab@cae594f: src/sequencelab/layers/zeros.py 43-50 against 63-65"),
        note=(
            "Products at one lag and even the norms depend on the place. SequenceLab calls "
            "itself a hub in prototype phase and names LJC-FVNR/ZeroS as the paper's repository, "
            "which was not seen."
        ),
    ),
    Claim(
        id="ZER-24",
        table=Table.CODE,
        statement="In SequenceLab the encoder form divides the sum over all N tokens by e^τ + i.",
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=encoder_means_are_too_large,
        place="LJC-FVNR/SequenceLab@cae594f: src/sequencelab/layers/zeros.py 316-323",
        note=(
            "The first mean is (1 + N)/2 times too large. SequenceLab calls itself a hub in "
            "prototype phase and names LJC-FVNR/ZeroS as the paper's repository, which was not "
            "seen."
        ),
    ),
)
