"""The forms of one layer: recurrence, parallel product, chunks, map; and the masks as printed."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, measured, shown
from dsf.claims.meta_linear.random_maps import normal
from dsf.evaluate import attention_map, chunkwise, recurrent, respond, scan
from dsf.measures import largest_ahead, largest_difference
from dsf.mixers import MetaLinearAttention

Mask = Callable[[Tensor], Tensor]
OVERFLOW, DENORMAL = 2121, 2017
"""Tokens at which K / A is first infinite and A first denormal, float32 at zero logits."""


def parallel(mixer: MetaLinearAttention, mask: Mask = torch.tril) -> Float[Tensor, "time time"]:
    """((Q ⊙ A)(K / A)ᵀ) ⊙ M with A the running products, as it stands in the paper."""
    passed = mixer.decay.cumprod(dim=0)
    return mask((mixer.query * passed) @ ((1 - mixer.decay) / passed).mT)


def forms_agree(mask: Mask = torch.tril) -> Certificate:
    """128 tokens, 16 channels of key, 8 of value, chunks of 16."""
    mixer = _drawn(128, 16, 8)
    system, signal = mixer.system(), mixer.signal()
    expected = respond(system, signal, method=recurrent).squeeze(-2)
    others = {
        "parallel": parallel(mixer, mask) @ mixer.value,
        "chunks": respond(system, signal, method=partial(chunkwise, size=16)).squeeze(-2),
        "scan": respond(system, signal, method=scan).squeeze(-2),
        "map": attention_map(system) @ mixer.value,
    }
    return measured(
        "recurrence, parallel product, chunks and explicit map give one response",
        float(np.max([float((other - expected).abs().max()) for other in others.values()])),
        within=1e-12,
        method="largest difference of an entry from the recurrence",
    )


def product_overflows(temperature: float = 16.0) -> Certificate:
    """Follow A = 2^{-n/16} and K / A in float32 until the quotient is infinite."""
    tokens = torch.arange(1, 4000, dtype=torch.float64)
    passed = torch.exp2(-tokens / temperature).float()
    key = 1 - torch.tensor(2.0).pow(-1 / temperature)
    infinite = _first(torch.isinf(key / passed))
    denormal = _first(passed < torch.finfo(torch.float32).tiny)
    return held(
        f"at zero logits K / A overflows in float32 at {OVERFLOW} tokens, and A is denormal from "
        f"{DENORMAL} on",
        {"overflow": infinite == OVERFLOW, "denormal": denormal == DENORMAL},
        method="running products in float32",
        observed=float(infinite),
        figures={"first infinite": infinite, "first denormal": denormal},
    )


def printed_softmax(hide: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Certificate:
    """Multiply 8 x 8 logits by the mask, then take the softmax; look at the first row."""
    reach = torch.ones(8, 8, dtype=torch.float64).tril()
    logits = {"drawn": normal(np.random.default_rng(0), 8, 8), "zero": torch.zeros_like(reach)}
    ahead = {
        name: float(hide(each, reach).softmax(dim=-1)[0, 1:].sum()) for name, each in logits.items()
    }
    case = {"weight on later tokens in row 1": ahead, "logits of row 1": _row(logits["drawn"])}
    return shown(
        "softmax of the logits times a mask of 0 and 1 leaves weight on later tokens",
        ahead["drawn"],
        beyond=1e-12,
        case=case,
        method="8 x 8 logits, normal and zero",
    )


def printed_mask(mask: Mask = torch.triu) -> Certificate:
    """Build the parallel form with ones where row <= column and compare it with the map."""
    mixer = _drawn(6, 4, 1)
    built, map = parallel(mixer, mask), attention_map(mixer.system())
    case = {
        "built, first row": _row(built),
        "map, first row": _row(map),
        "largest weight on a later token": float(largest_ahead(built)),
    }
    return shown(
        "the parallel form with the mask 1 for i <= j is not the map of the recurrence",
        float(largest_difference(built, map)),
        beyond=1e-9,
        case=case,
        method="6 tokens, 4 channels",
    )


def _drawn(steps: int, key: int, channels: int) -> MetaLinearAttention:
    rng = np.random.default_rng(0)
    return MetaLinearAttention(
        query=normal(rng, steps, key),
        decay=torch.sigmoid(normal(rng, steps, key)) ** (1 / 16),
        value=normal(rng, steps, channels),
    )


def _first(met: Tensor) -> int:
    """The first token, counted from 1, at which something is so; 0 if it never is."""
    return int(met.nonzero()[0]) + 1 if bool(met.any()) else 0


def _row(map: Tensor) -> list[float]:
    return [round(part, 4) for part in map[0].tolist()]


CLAIMS = (
    Claim(
        id="MLA-1",
        table=Table.PAPER,
        statement=(
            "The recurrent, the parallel and the chunked form and the explicit map of the layer "
            "compute the same."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=forms_agree,
        quote=(
            "The general form equips with two modes of parallel and recurrent computation which "
            "enjoys both training and inference efficiency."
        ),
        place="caption of Fig. 1; (13), (16), (18), (A28)-(A30)",
        hypotheses=(
            "α > 0 where (16) divides by A",
            "the mask read as i ≥ j (MLA-25)",
            'the chunkwise form is used "In practical implementation" (A3.1)',
        ),
    ),
    Claim(
        id="MLA-20",
        table=Table.OWN,
        statement=(
            "In float32 the parallel form over a whole sequence overflows after 2121 tokens even "
            "at zero logits, and its running products are denormal from 2017 on."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=product_overflows,
        quote=(
            "In practical implementation, we utilize chunkwise form proposed in [15] for "
            "hardware-efficient training."
        ),
        place="A3.1",
        note=(
            "The quoted sentence is the paper's own remedy: chunks keep the running products "
            "short. dsf never divides by them at all."
        ),
    ),
    Claim(
        id="MLA-24",
        table=Table.SLIP,
        statement=(
            "(1) multiplies the logits by the mask, which must be added as -∞; with the mask of "
            "(17), softmax attention as printed is not causal."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=printed_softmax,
        quote=(
            "M ∈ R^{n×n} is a mask matrix in autoregressive tasks to prevent a token from "
            "attending to future tokens."
        ),
        place="Sec. 2, (1)",
        hypotheses=("if M is the mask of (17): (1) does not give its values",),
        note=(
            "A logit of zero is no weight of zero: most of the first row falls on later tokens, "
            "7/8 at zero logits."
        ),
    ),
    Claim(
        id="MLA-25",
        table=Table.SLIP,
        statement="(17) and (A29) print the mask 1 for i ≤ j, where i ≥ j is meant.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=printed_mask,
        quote="M_{i,j} = 1, i ≤ j; 0, i > j",
        place="(17), (A29)",
        hypotheses=("(18) is right",),
        note=(
            "As printed the result is upper triangular: it reads later tokens only. Seen in a "
            "machine conversion of the paper."
        ),
    ),
)
