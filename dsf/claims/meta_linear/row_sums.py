"""The sum of the weights of a row when the key is 1 - decay."""

from collections.abc import Callable

import numpy as np
import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, shown
from dsf.claims.meta_linear.random_maps import normal
from dsf.evaluate import attention_map
from dsf.measures import row_sums
from dsf.mixers import RGLRU, MetaLinearAttention

STEPS, KEY, DRAWN = 64, 5, 200
ROUNDING = 1e-12
Key = Callable[[sympy.Expr], sympy.Expr]


def tied(decay: sympy.Expr) -> sympy.Expr:
    """MetaLA's key."""
    return 1 - decay


def sums_of_rows(key: Key = tied) -> Certificate:
    """One token more, with symbols; then the rows of a random mixer."""
    decay, kept = sympy.symbols("alpha P")
    one_more = decay * (1 - kept) + key(decay) - (1 - decay * kept)
    rng = np.random.default_rng(0)
    query = normal(rng, STEPS, KEY)
    decays = torch.sigmoid(normal(rng, STEPS, KEY)) ** (1 / 16)
    mixer = MetaLinearAttention(query=query, decay=decays, value=torch.ones_like(query[:, :1]))
    let_go = 1 - decays.cumprod(dim=0)
    error = float((row_sums(mixer.system()) - (query * let_go).sum(dim=-1)).abs().max())
    channels = torch.stack([_channel_sums(decays[:, c]) for c in range(KEY)], dim=-1)
    return argued(
        "row t sums to q_t.(1 - Π α), and every channel's weights sum to a number in 0 ... 1",
        "induction over tokens: the sum starts at 0 = 1 - Π over nothing, and one token takes "
        "1 - P to α (1 - P) + (1 - α)",
        {
            "one more token, with symbols": sympy.expand(one_more) == 0,
            f"row sums of {STEPS} tokens": error < ROUNDING,
            "sums of a channel": bool(((channels >= 0) & (channels <= 1)).all()),
            "a channel sums to 1 - Π α": bool((channels - let_go).abs().max() < ROUNDING),
        },
        method="symbols, and row sums of a random mixer",
        observed=error,
    )


def griffin_sums(gain: Callable[[Tensor], Tensor] = torch.ones_like) -> Certificate:
    """200 decays between 0.8 and 0.99; the last row's sum, and the sum of its squares."""
    decay = torch.from_numpy(np.random.default_rng(0).uniform(0.8, 0.99, DRAWN)).unsqueeze(-1)
    mixer = RGLRU(value=torch.ones_like(decay), decay=decay, input_gate=gain(decay))
    row = attention_map(mixer.system())[0, -1]
    expected = float(1 - decay.prod())
    case = {
        "sum of the weights": float(row.sum()),
        "1 - Π α": expected,
        "sum of their squares": float(row.square().sum()),
        "1 - Π α²": float(1 - decay.square().prod()),
    }
    return shown(
        "the weights of a row of the RG-LRU do not sum to 1 - Π α",
        abs(float(row.sum()) - expected),
        beyond=1e-9,
        case=case,
        method=f"last row of {DRAWN} tokens",
    )


def _channel_sums(decay: Tensor) -> Tensor:
    one = torch.ones_like(decay).unsqueeze(-1)
    return row_sums(MetaLinearAttention(query=one, decay=decay.unsqueeze(-1), value=one).system())


CLAIMS = (
    Claim(
        id="MLA-14",
        table=Table.OWN,
        statement=(
            "Row t of the map sums to q_t.(1 - Π α), and the weights of every channel sum to a "
            "number between 0 and 1."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=sums_of_rows,
    ),
    Claim(
        id="MLA-15",
        table=Table.OWN,
        statement=(
            "Griffin's key sqrt(1 - α²) keeps a variance and not a mean: its rows do not sum to "
            "1 - Π α as those with the key 1 - α do."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=griffin_sums,
        quote="Moreover, it ties dynamic decay and Key as we do.",
        place="A1.3, Griffin",
        note=(
            "The quoted sentence is true of both. Over 200 tokens with decays between 0.8 and "
            "0.99 the last row sums to 4.21, its squares to 1 - Π α²."
        ),
    ),
)
