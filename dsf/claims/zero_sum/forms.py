"""Zero-sum attention as a scan and as a system, against its weights written out."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, measured
from dsf.claims.zero_sum.weighing import Weigh, causal_map, defined_row, radial
from dsf.evaluate import attention_map, respond, scan
from dsf.measures import hankel_ranks
from dsf.mixers import ZeroSumAttention
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity

ROUNDING = 1e-12


def drawn(*, steps: int, width: int, heads: int) -> ZeroSumAttention:
    """Directions, values and logits standard normal, orders sigmoids of normals."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal((heads, steps, *shape)))

    query, key, value = normal(width), normal(width), normal(width)
    logit, first, higher = normal(), normal(), normal()
    return ZeroSumAttention(
        query=query,
        key=key,
        value=value,
        logit=logit,
        first_order=first.sigmoid(),
        higher_order=higher.sigmoid(),
    )


def scan_equals_weights(weigh: Weigh = defined_row) -> Certificate:
    """The parallel scan of the library against the weights times the values."""
    mixer = drawn(steps=24, width=8, heads=2)
    expected = causal_map(mixer, weigh) @ mixer.value
    scanned = respond(mixer.system(), mixer.signal(), method=scan).squeeze(-2)
    error = float((scanned - expected).norm() / expected.norm())
    return measured(
        "the scan gives what the explicit weights give",
        error,
        within=1e-10,
        method="24 tokens, width 8, 2 heads; relative Frobenius norm",
    )


def read_factors(mixer: ZeroSumAttention) -> Float[Tensor, "*batch time 3"]:
    """The factors of the reading token on the sums of e^s, s and 1."""
    tokens = torch.arange(1, mixer.logit.shape[-1] + 1, dtype=mixer.logit.dtype)
    mean = mixer.logit.cumsum(dim=-1) / tokens
    first, higher = mixer.first_order / tokens, mixer.higher_order / tokens
    total = mixer.logit.exp().cumsum(dim=-1)
    factors = [mixer.higher_order / total, first - higher, mean * (higher - first) - higher]
    return torch.stack(factors, dim=-1)


def plain_system(mixer: ZeroSumAttention, factors: Float[Tensor, "*batch time 3"]) -> System:
    """A = I, and three sums of keys as the state; overflows with large logits."""
    ones = torch.ones_like(mixer.logit)
    write = torch.stack([mixer.logit.exp(), mixer.logit, ones], dim=-1)
    if mixer.query is None or mixer.key is None:
        return System.from_write_and_read(ScaledIdentity(ones, 3), write, factors)
    key, query = normalize(mixer.key, dim=-1), normalize(mixer.query, dim=-1)
    write = (write.unsqueeze(-1) * key.unsqueeze(-2)).flatten(-2)
    read = (factors.unsqueeze(-1) * query.unsqueeze(-2)).flatten(-2)
    return System.from_write_and_read(ScaledIdentity(ones, write.shape[-1]), write, read)


def system_has_three_keys_of_state(states: int = 3) -> Certificate:
    """Both gauges against the weights written out, and the ranks of the Hankel blocks.

    Args:
        states: how many sums the radial map is said to need; with directions, for each of them.
    """
    width = 3
    mixer = drawn(steps=30, width=width, heads=1)
    plain = plain_system(mixer, read_factors(mixer))
    map = causal_map(mixer)
    bare = radial(mixer.logit, mixer.first_order, mixer.higher_order)
    errors = {
        "plain": float((attention_map(plain) - map).abs().max()),
        "safe": float((attention_map(mixer.system()) - map).abs().max()),
    }
    ranks = [int(hankel_ranks(map).max()), int(hankel_ranks(causal_map(bare)).max())]
    return held(
        "zero-sum attention is a system of order 3 d_k, and of order 3 without the angle",
        {
            "the plain gauge gives the map within 1e-12": errors["plain"] <= ROUNDING,
            "the safe gauge gives the map within 1e-12": errors["safe"] <= ROUNDING,
            "the plain system has that order": plain.state_size == states * width,
            "the Hankel ranks are at most that": ranks[0] <= states * width and ranks[1] <= states,
            "they are attained": ranks == [states * width, states],
        },
        method=f"30 tokens, d_k {width}; ranks at relative 1e-10",
        observed=max(errors.values()),
        figures={"errors": errors, "hankel_ranks": ranks},
    )


CLAIMS = (
    Claim(
        id="ZER-3",
        table=Table.PAPER,
        statement="The linear-time scan of ZeroS gives the same output as its explicit weights.",
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=scan_equals_weights,
        quote=(
            "The terms dependent on t and i are effectively separated, enabling linear-time "
            "computation through prefix sums."
        ),
        place="Reweighted Zero-sum Softmax in Linear Time",
        hypotheses=("logits s_i of token i alone",),
    ),
    Claim(
        id="ZER-5",
        table=Table.OWN,
        statement=(
            "ZeroS is a linear system of order 3 d_k, 3 without the angle, in a plain and in an "
            "overflow-safe gauge, and no smaller one has its map."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=system_has_three_keys_of_state,
    ),
)
