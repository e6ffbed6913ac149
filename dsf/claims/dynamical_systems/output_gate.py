"""Normalised attention is linear attention with an output gate."""

from collections.abc import Callable

import numpy as np
import sympy
import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.claims.dynamical_systems.attention_forms import NORMALISERS
from dsf.claims.dynamical_systems.drawn import normal
from dsf.evaluate import attention_map
from dsf.mixers import LinearAttention, NormalisedAttention
from dsf.mixers.ingredients import identity

ROUNDING = 1e-12
STEPS = 12


def gate(normaliser: Tensor) -> Tensor:
    """One over the normaliser of the reading token."""
    return 1 / normaliser


def normaliser_is_a_gate(gate: Callable[[Tensor], Tensor] = gate) -> Certificate:
    """Maps for three normalisers, a permuted past, and the entry with symbols."""
    rng = np.random.default_rng(0)
    query, key, value = normal(rng, 3, STEPS, 4)
    pre = normal(rng, STEPS)
    order = torch.cat([torch.from_numpy(rng.permutation(STEPS - 1)), torch.tensor([STEPS - 1])])
    linear = LinearAttention(
        query=query, key=key, value=value, feature_map=identity, normalised=False
    )
    plain = attention_map(linear.system())
    gated, shuffled = [], []
    for g in NORMALISERS.values():
        eta = g(pre)
        tokens = {"query": query, "normaliser": eta}
        weights = attention_map(NormalisedAttention(**tokens, key=key, value=value).system())
        gated.append(_apart(weights, gate(eta).unsqueeze(-1) * plain))
        other = NormalisedAttention(**tokens, key=key[order], value=value[order])
        moved = attention_map(other.system())[-1] @ value[order]
        shuffled.append(_apart(moved, weights[-1] @ value))
    error = max(gated + shuffled)
    return argued(
        "normalised attention is unnormalised linear attention times a gate of the reading token, "
        "whatever the lag; for the sigmoid the gate is 1 + e^-x >= 1",
        "the ratios η_{t-1}/η_t telescope, so that an entry is q_i.k_j/η_i, which holds no index "
        "between i and j; a sum does not know the order of its terms",
        {
            "the maps are the gated ones, for exp, softplus and sigmoid": max(gated) < ROUNDING,
            "permuting past pairs leaves the output": max(shuffled) < ROUNDING,
            "the entry telescopes (symbols, 4 tokens)": _telescopes(),
            "1/sigmoid(x) = 1 + e^-x": _sigmoid_gain() == 0,
        },
        method="symbols, and 12 tokens of key width 4 in float64",
        observed=error,
    )


def _apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def _telescopes(tokens: int = 4) -> bool:
    eta = sympy.symbols(f"eta1:{tokens + 1}", positive=True)
    entries = [
        sympy.prod([eta[t - 1] / eta[t] for t in range(j + 1, i + 1)]) / eta[j] - 1 / eta[i]
        for i in range(tokens)
        for j in range(i + 1)
    ]
    return all(sympy.cancel(entry) == 0 for entry in entries)


def _sigmoid_gain() -> sympy.Expr:
    x = sympy.Symbol("x", real=True)
    return sympy.simplify((1 + sympy.exp(x)) / sympy.exp(x) - (1 + sympy.exp(-x)))


CLAIMS = (
    Claim(
        id="DSF-18",
        table=Table.OWN,
        statement=(
            "Normalised attention is linear attention with an output gate 1/η(u_i): it has no "
            "dependence on lag, and its sigmoid version has gain 1 + e^{-x} ≥ 1."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=normaliser_is_a_gate,
        quote=(
            "Inspired by S6, we define normalized attention as the attention function … η(u_i) = "
            "e^{W_η u_i}"
        ),
        place="(22), 4.2; (29), (30), App. H",
        note=("It never forgets: what looks like a decay in A is undone by the normaliser in B."),
    ),
)
