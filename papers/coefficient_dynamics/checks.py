"""Checks of Design Principles via Coefficient Dynamics (arXiv:2510.09389).

The coefficients of the paper are φ(q_i' A_i ... A_{j+1} k_j) / η_i.
"""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import sympy
import torch
from torch import Tensor

import dsf
from dsf import mixers
from papers.drawn import apart, generator, normal, output, uniform, weights
from papers.verdicts import argued, check, held, measured

NEAR = 1e-12
STEPS, STATES = 16, 3
Phi = Callable[[Tensor], Tensor]
identity, relu = dsf.mixers.ingredients.identity, dsf.mixers.ingredients.relu

Build = Callable[[Tensor, Tensor, Tensor], mixers.Mixer]


def of_width(mixer: type[mixers.Mixer], **fixed: Any) -> Build:
    return lambda query, key, value: mixer(query=query, key=key, value=value, **fixed)


SOFTMAX = of_width(mixers.SoftmaxAttention)
LINEAR = of_width(mixers.LinearAttention, feature_map=identity, normalised=False)
DECAYING = of_width(mixers.Retention, decay=torch.tensor(0.8, dtype=torch.float64))
"""A = I with φ = exp and with φ = identity, and A = 0.8 I with φ = identity."""


@check("CDY-1")
def blind_without_decay(blind=(SOFTMAX, LINEAR)):
    """Permute three past pairs with symbols, and fifteen with numbers; compare the last output."""
    rng = generator()
    query, key, value = (normal(rng, STEPS, width) for width in (4, 4, 3))
    order = torch.tensor([*rng.permutation(STEPS - 1), STEPS - 1])

    def change(build: Build) -> float:
        """How far the last output moves when the past is reordered."""
        mixers = build(query, key, value), build(query, key[order], value[order])
        return apart(*(output(mixer)[-1] for mixer in mixers))

    off, seen = max(map(change, blind)), change(DECAYING)
    return argued(
        {
            "no permutation of the past moves the output for A = I, with symbols": (
                not _moved_by_permutation(sympy.S.One)
            ),
            "one does for A = a I, with symbols": _moved_by_permutation(sympy.Symbol("a")),
            "nor does it move softmax or linear attention by more than 1e-12": off <= NEAR,
            "but attention with decay 0.8": seen > 0.1,
        },
        observed=off,
        figures={"change with A = I": off, "change with decay 0.8": seen},
    )


def _moved_by_permutation(a: sympy.Expr) -> bool:
    """Whether some order of three past pairs gives another last output, A = a I."""
    phi = sympy.Function("phi")
    scores, values = sympy.symbols("s1:4"), sympy.symbols("v1:4")

    def output(order: tuple[int, ...]) -> sympy.Expr:
        weights = [phi(a ** (3 - place) * scores[j]) for place, j in enumerate(order)]
        written = [w * values[j] for w, j in zip(weights, order, strict=True)]
        return sum(written) / sum(weights)

    plain = output((0, 1, 2))
    return any(output(order) != plain for order in permutations(range(3)))


@check("CDY-2")
def variance_of_scores(scale=lambda width: width**-0.5):
    """Sample variances of q.k b over Gaussian pairs, for four widths."""
    rng = generator()
    found, plain, widths = [], [], (16, 64, 256, 1024)
    for width in widths:
        query, key = rng.standard_normal((4000, width)), rng.standard_normal((4000, width))
        products = (query * key).sum(axis=-1)
        found.append(float((products * scale(width)).var()))
        plain.append(float(products.var()) / width)
    return held(
        {
            "1 within 5 % for every width": all(abs(v - 1) <= 0.05 for v in found),
            "n within 5 % without b": all(abs(v - 1) <= 0.05 for v in plain),
        },
        observed=max(abs(v - 1) for v in found),
        figures={"widths": widths, "variances": found, "variances of q.k, over n": plain},
    )


def raised(scores: Tensor) -> Tensor:
    """φ = exp, over the sum of the row."""
    weights = scores.exp().tril()
    return weights / weights.sum(dim=-1, keepdim=True)


@check("CDY-10")
def softmax_fits(coefficients=raised):
    """exp(q.k) over the sum of the row against the softmax mixer."""
    rng = generator()
    query, key = (normal(rng, 16, 4) for _ in range(2))
    mixer = mixers.SoftmaxAttention(query=query, key=key, value=key, scale=1.0)
    return measured(apart(coefficients(query @ key.mT), weights(mixer)), within=NEAR)


def by_the_sum(weights: Tensor) -> Tensor:
    """Coefficients over the sum of their row."""
    return weights / weights.sum(dim=-1, keepdim=True)


@check("CDY-9")
def normalisation_bounds_rows(normalise=by_the_sum):
    """Sums of the absolute coefficients of the last row as the length grows, with and without η."""
    rng = generator()
    with_eta, without, lengths = [], [], (16, 64, 256, 1024)
    for tokens in lengths:
        query, key = normal(rng, 2, tokens, 4)
        last = (query[-1] @ key.mT).exp()
        with_eta.append(float(normalise(last).abs().sum()))
        without.append(float(last.sum()))
    grown = without[-1] / without[0]
    return held(
        {
            "bounded by 1 with the normaliser": max(with_eta) <= 1 + NEAR,
            "without it more than tenfold from 16 to 1024 tokens": grown > 10,
        },
        observed=grown,
        figures={"tokens": lengths, "with": with_eta, "without": without},
    )


@check("CDY-6")
def key_transformations(rate=2.0):
    """What A_T ... A_1 does to keys for a scalar, a diagonal and a Householder A_t."""
    rng = generator()
    pace, paces = (uniform(rng, *size, low=0.5, high=1) for size in ((5,), (5, 4)))
    directions = normal(rng, 5, 4)
    unit = (directions / directions.norm(dim=-1, keepdim=True)).unsqueeze(-1)
    mirrors = dsf.systems.transition.DiagonalPlusLowRank(
        torch.ones(5, 4).double(), -rate * unit, unit
    )
    scalar = _product(dsf.systems.transition.ScaledIdentity(pace, 4))
    diagonal, once = _product(dsf.systems.transition.Diagonal(paces)), mirrors.dense()[0]
    one = torch.ones(4).double()
    signs = torch.tensor([-1.0, 1, 1, 1]).double()
    near = {
        "scalar: a multiple of the identity": apart(scalar, pace.prod() * one.diag()),
        "diagonal: a factor for each axis": apart(diagonal, paces.prod(dim=0).diag()),
        "Householder: one step turns its direction round": apart(once @ unit[0], -unit[0]),
        "Householder: and leaves what is orthogonal to it": apart(
            torch.linalg.eigvalsh(once), signs
        ),
        "Householder: no length changes over all steps": apart(
            torch.linalg.svdvals(_product(mirrors)), one
        ),
    }
    return held({name: off <= NEAR for name, off in near.items()})


def _product(A: dsf.systems.transition.Transition) -> Tensor:
    whole = A.window(0, 1)
    for t in range(1, A.steps):
        whole = A.window(t, t + 1).compose(whole)
    return whole.dense()[0]
