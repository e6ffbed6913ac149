"""Separable attention as a system: the normaliser in B, and when it is a state-space duality."""

from collections.abc import Callable

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, identical, shown
from dsf.claims.dynamical_systems.drawn import normal, projected_tokens, uniform
from dsf.evaluate import attention_map
from dsf.measures import largest_difference
from dsf.mixers import LinearAttention, StateSpaceDuality
from dsf.mixers.ingredients import elu_plus_one
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity

ROUNDING = 1e-12
Normaliser = Callable[[Tensor, Tensor], Tensor]


def separable(
    read: Float[Tensor, "*batch time state"],
    write: Float[Tensor, "*batch time state"],
    normaliser: Float[Tensor, "*batch time"],
    *,
    divisor: Float[Tensor, "*batch time"] | None = None,
) -> System:
    """A_i = (η_{i-1}/η_i) I, B_i = ψ_i/divisor_i, C_i = φ_i; the divisor is η_i when absent."""
    ratios = normaliser[..., :-1] / normaliser[..., 1:]
    kept = torch.cat([torch.ones_like(normaliser[..., :1]), ratios], dim=-1)
    divisor = normaliser if divisor is None else divisor
    return System.from_write_and_read(
        ScaledIdentity(kept, write.shape[-1]), write / divisor.unsqueeze(-1), read
    )


def row_sums_in_reach(
    read: Float[Tensor, "time state"], write: Float[Tensor, "time state"]
) -> Float[Tensor, " time"]:
    """The normaliser of linear attention, η_i = Σ_{j<=i} φ_i.ψ_j."""
    return (read * write.cumsum(dim=0)).sum(dim=-1)


def of_token_before(normaliser: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    """η_{i-1}; for the first token, which has none before it, its own."""
    return torch.cat([normaliser[:1], normaliser[:-1]])


def write_index(divisor: Callable[[Tensor], Tensor] = of_token_before) -> Certificate:
    """Build linear attention with this divisor in B and with η_i, and compare their maps."""
    query, key, value = projected_tokens()
    mixer = LinearAttention(query=query, key=key, value=value)
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = row_sums_in_reach(read, write)
    expected = attention_map(mixer.system())
    claimed = attention_map(separable(read, write, eta, divisor=divisor(eta)))
    own = float(largest_difference(attention_map(separable(read, write, eta)), expected))
    error = float(((claimed - expected) @ value).abs().max())
    return shown(
        "with the normaliser of the token before in B the map is not that of linear attention; "
        "with the token's own it is",
        error if own < ROUNDING else float("nan"),
        beyond=ROUNDING,
        case={
            "normalisers of tokens 1, 2": eta[:2].tolist(),
            "weight of token 2 on itself, as printed": float(claimed[1, 1]),
            "the same weight of linear attention": float(expected[1, 1]),
            "largest output error": error,
            "largest error with the token's own normaliser": own,
        },
        method="20 tokens, key width 4, elu + 1, float64",
    )


def own_token(eta: sympy.IndexedBase, j: int) -> sympy.Expr:
    """What divides B_j in Appendix B."""
    return eta[j]


def normalisers_cancel(
    divisor: Callable[[sympy.IndexedBase, int], sympy.Expr] = own_token,
) -> Certificate:
    """Multiply the ratios in A with the divisor in B, for all pairs among six tokens."""
    eta = sympy.IndexedBase("eta", positive=True)
    missed = sympy.S.Zero
    for i in range(2, 7):
        for j in range(2, i + 1):
            ratios = sympy.prod([eta[k - 1] / eta[k] for k in range(j + 1, i + 1)])
            missed += abs(sympy.cancel(ratios / divisor(eta, j) - 1 / eta[i]))
    return identical(
        "the product of the transitions and of B_j carries 1/η_i and no other normaliser",
        missed,
        method="symbols, all pairs of six tokens",
    )


def swapped_projection(
    projected: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda u, _to_key, to_value: (
        u @ to_value
    ),
) -> Certificate:
    """Linear attention with keys W_V u in place of W_K u."""
    rng = np.random.default_rng(0)
    u = normal(rng, 12, 4)
    to_query, to_key, to_value = normal(rng, 3, 4, 4)
    maps = [
        attention_map(LinearAttention(query=u @ to_query, key=key, value=u @ to_value).system())
        for key in (projected(u, to_key, to_value), u @ to_key)
    ]
    return shown(
        "keys W_V u do not give the map that keys W_K u give",
        float(largest_difference(*maps)),
        beyond=ROUNDING,
        case={
            "first rows as printed": maps[0][1, :2].tolist(),
            "as meant": maps[1][1, :2].tolist(),
        },
        method="12 tokens, width 4, elu + 1, float64",
    )


def duality_condition(normaliser: Normaliser = row_sums_in_reach) -> Certificate:
    """Convert a token-wise ratio to a step; test whether ratios of linear attention allow it."""
    query, key, _ = projected_tokens()
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = normaliser(read, write)
    ratios = eta[:-1] / eta[1:]
    other = write.clone()
    other[0] += 1
    moved = normaliser(read, other)
    change = (moved[:-1] / moved[1:] - ratios)[1:].abs()  # of tokens that did not change
    error = _error_as_duality(read, write)
    return held(
        "a ratio of normalisers in (0, 1] that depends on its own token only is the decay of a "
        "state-space duality, and the ratios of linear attention are not of that kind",
        {
            "a token-wise ratio in (0, 1] gives the same map": error < ROUNDING,
            "some ratios of linear attention lie above 1": bool((ratios > 1).any()),
            "they depend on earlier tokens": bool((change > ROUNDING).all()),
        },
        method="20 tokens, key width 4, elu + 1, float64",
        observed=error,
        figures={"smallest ratio": float(ratios.min()), "largest ratio": float(ratios.max())},
    )


def _error_as_duality(read: Tensor, write: Tensor) -> float:
    """One drawn ratio per token against the duality with step -log ratio."""
    steps = len(read)
    ratio = uniform(np.random.default_rng(0), steps, low=0.3, high=1.0)
    eta = 1 / ratio.cumprod(dim=0)
    step = -ratio.log()
    duality = StateSpaceDuality(
        value=normal(np.random.default_rng(0), 1, steps, 1),
        step=step.unsqueeze(0),
        pole=-torch.ones_like(step[:1]),
        write=(write / (eta * step).unsqueeze(-1)).unsqueeze(0),
        read=read.unsqueeze(0),
    )
    maps = attention_map(duality.system())[0], attention_map(separable(read, write, eta))
    return float(largest_difference(*maps))


CLAIMS = (
    Claim(
        id="DSF-2",
        table=Table.SLIP,
        statement=(
            "(15b) prints the normaliser of the token before in B_i, where the token's own is "
            "meant."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=write_index,
        quote="B_i = ( 1/η(q_{i-1}, **k**_{i-1}) I_d ⊗ ψ(k_j) ) W_V",
        place="(15b), 3.2.1; the same index in (28b), App. G",
        hypotheses=('Appendix B ends with "B_i = ( 1/η(q_i, **k**_i) I_d ⊗ ψ(k_i) ) W_V"',),
        note=(
            "Appendix B and Section 4.2 of the paper are right: with the token's own normaliser "
            "the ratios in A telescope to 1/η_i (DSF-32), with the printed index the product is "
            "η_j/(η_{j-1} η_i). Seen in a machine conversion and, independently, by an earlier "
            "reader."
        ),
    ),
    Claim(
        id="DSF-14",
        table=Table.OWN,
        statement=(
            "A separable attention is of state-space duality type if and only if η_{i-1}/η_i "
            "lies in (0, 1] and depends on token i only."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=duality_condition,
        note=(
            "A statement about coefficients: moving η from A into C gives every separable map a "
            "system with A = I."
        ),
    ),
    Claim(
        id="DSF-32",
        table=Table.PAPER,
        statement=(
            "In attention the product of the transitions and B_j carries 1/η(q_i, k_1 … k_i) and "
            "no other normaliser."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=normalisers_cancel,
        quote="Hence, in attention Π_{k=j}^i Λ_k B_j evaluates to 1/η(q_i, **k**_i)",
        place="Sec. 4.2",
        hypotheses=(
            "B_i as in Appendix B",
            "up to ψ(k_j) and W_V",
        ),
        note="With the index printed in (15b) the product is η_j/(η_{j-1} η_i): DSF-2.",
    ),
    Claim(
        id="DSF-37",
        table=Table.SLIP,
        statement="(14) prints keys W_V u_j, where W_K u_j is meant.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=swapped_projection,
        quote="k_j = W_V u_j",
        place="(14), 3.2.1",
        note="Seen in a machine conversion of the paper.",
    ),
)
