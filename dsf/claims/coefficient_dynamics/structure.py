"""What the structure of A does to a key on its way, and which attention fits the form at all."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, measured, shown
from dsf.evaluate import attention_map
from dsf.mixers import LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients.feature_maps import FeatureMap, elu_plus_one
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank, ScaledIdentity
from dsf.systems.transition.base import Transition

STEPS, STATES = 5, 4
NEAR = 1e-12


def key_transformations(rate: float = 2.0) -> Certificate:
    """Singular values of A_T ... A_1 for a scalar, a diagonal and a Householder A_t."""
    rng = np.random.default_rng(0)
    pace, paces = (torch.tensor(rng.uniform(0.5, 1, size)) for size in (STEPS, (STEPS, STATES)))
    directions = torch.tensor(rng.standard_normal((STEPS, STATES)))
    unit = (directions / directions.norm(dim=-1, keepdim=True)).unsqueeze(-1)
    scalar = _product(ScaledIdentity(pace, STATES))
    diagonal = _product(Diagonal(paces))
    mirrors = DiagonalPlusLowRank(torch.ones(STEPS, STATES).double(), -rate * unit, unit)
    mirrored, once = _product(mirrors), mirrors.dense()[0]
    identity = torch.eye(STATES, dtype=torch.float64)
    axes = paces.prod(dim=0)
    values = {
        "scalar": torch.linalg.svdvals(scalar),
        "diagonal": torch.linalg.svdvals(diagonal),
        "Householder": torch.linalg.svdvals(mirrored),
    }
    return held(
        "a scalar A scales keys, a diagonal A scales their axes, a Householder A reflects them",
        {
            "scalar: the product is a number times the identity": _near(
                scalar, pace.prod() * identity
            ),
            "diagonal: axes stay axes, each with its own factor": _near(diagonal, axes.diag())
            and _near(values["diagonal"], axes.sort(descending=True).values),
            "Householder: one step turns its direction round": _near(once @ unit[0], -unit[0]),
            "Householder: and leaves what is orthogonal to it": _near(
                torch.linalg.eigvalsh(once), torch.tensor([-1.0] + [1.0] * (STATES - 1)).double()
            ),
            "Householder: no length changes over all steps": _near(
                values["Householder"], torch.ones(STATES).double()
            ),
        },
        method=f"singular values of products of {STEPS} transitions, {STATES} states",
        figures={name: found.tolist() for name, found in values.items()},
    )


def _product(A: Transition) -> Float[Tensor, "state state"]:
    whole = A.window(0, 1)
    for t in range(1, STEPS):
        whole = A.window(t, t + 1).compose(whole)
    return whole.dense()[0]


def _near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= NEAR)


def raised(scores: Tensor) -> Tensor:
    """phi = exp, over the sum of the row."""
    weights = scores.exp().tril()
    return weights / weights.sum(dim=-1, keepdim=True)


def softmax_fits(coefficients: Callable[[Tensor], Tensor] = raised) -> Certificate:
    """exp(q.k) over the sum of the row against the softmax mixer."""
    rng = np.random.default_rng(0)
    query, key = (torch.tensor(rng.standard_normal((16, STATES))) for _ in range(2))
    mixer = SoftmaxAttention(query=query, key=key, value=key, scale=1.0)
    error = float((coefficients(query @ key.mT) - attention_map(mixer.system())).abs().max())
    return measured(
        "coefficients phi(q'k)/η with A = I, phi = exp and η the sum of the row are softmax "
        "attention",
        error,
        within=NEAR,
        method=f"16 tokens, n = {STATES}",
    )


LENGTHS = (16, 64, 256, 1024)


def by_the_sum(weights: Tensor) -> Tensor:
    """Coefficients over the sum of their row."""
    return weights / weights.sum(dim=-1, keepdim=True)


def normalisation_bounds_rows(normalise: Callable[[Tensor], Tensor] = by_the_sum) -> Certificate:
    """Sums of the absolute coefficients of the last row as the length grows, with and without η."""
    rng = np.random.default_rng(0)
    with_eta, without = [], []
    for tokens in LENGTHS:
        query, key = torch.tensor(rng.standard_normal((2, tokens, STATES)))
        last = (query[-1] @ key.mT).exp()
        with_eta.append(float(normalise(last).abs().sum()))
        without.append(float(last.sum()))
    grown = without[-1] / without[0]
    return held(
        "with a normaliser the coefficients of a row stay bounded as the length grows, without "
        "they grow with it",
        {
            "bounded by 1 with the normaliser": max(with_eta) <= 1 + NEAR,
            "without it more than tenfold from 16 to 1024 tokens": grown > 10,
        },
        method="phi = exp, standard normal queries and keys",
        observed=grown,
        figures={"tokens": list(LENGTHS), "with": with_eta, "without": without},
    )


def feature_maps_do_not_fit(feature_map: FeatureMap = elu_plus_one) -> Certificate:
    """Two keys with one product q.k, and the weights that linear attention gives them."""
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    key = torch.tensor([[1.0, 0.0], [1.0, 3.0]]).double()
    mixer = LinearAttention(
        query=query, key=key, value=key, feature_map=feature_map, normalised=False, causal=False
    )
    products = (key @ query[0]).tolist()
    weights = attention_map(mixer.system())[0].tolist()
    return shown(
        "the coefficients of linear attention with a feature map are no function of q.k",
        abs(weights[0] - weights[1]) if products[0] == products[1] else 0.0,
        beyond=NEAR,
        case={"query": query[0].tolist(), "keys": key.tolist()}
        | {"products q.k": products, "weights": weights},
        method="two keys, one query",
    )


CLAIMS = (
    Claim(
        id="CDY-6",
        table=Table.PAPER,
        statement=(
            "A scalar A_t scales keys, a diagonal one scales their axes, a Householder matrix "
            "reflects them."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=key_transformations,
        quote=(
            "The choice of A_t (scalar, diagonal, Householder) allows for transformations such "
            "as scaling or rotation."
        ),
        place="ICLR 2026 review (OpenReview 9uChwgWHX9), R4, item 4",
        hypotheses=(
            (
                'R4: "authors simple *(sic)* summarize the actions performed by scalar, '
                'diagonal, or Householder matrix operators on the keys"'
            ),
        ),
        note=(
            "The review says rotation; one Householder matrix reflects, and a product of two "
            "rotates."
        ),
    ),
    Claim(
        id="CDY-7",
        table=Table.OWN,
        statement=(
            "The coefficients of linear attention with a feature map are not of the form φ(q·k)."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=feature_maps_do_not_fit,
        quote=(
            "Authors claim that Linear Attention has a readout of the form ψ(·)ψ(·), but this is "
            "not really a function acting post the readout as defined and hence does not fit "
            "with the framework definition."
        ),
        place="ICLR 2026 review (OpenReview 9uChwgWHX9), R4, remark on Principle 2",
        note=(
            "The observation is reviewer R4's; it is not known that the authors claim the "
            "contrary. With elu + 1 and q = (1, 0) the keys (1, 0) and (1, 3) have the same "
            "product with q and the weights 5 and 8."
        ),
    ),
    Claim(
        id="CDY-9",
        table=Table.PAPER,
        statement=(
            "With a normaliser the coefficients of a row stay bounded as the length grows; "
            "without one they grow with it."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=normalisation_bounds_rows,
        quote=(
            "Normalization η_i: Stable training requires normalization of coefficient magnitudes."
        ),
        place="ICLR 2026 review (OpenReview 9uChwgWHX9), R4, item 6",
        hypotheses=("φ = exp, standard normal queries and keys",),
        note=(
            'About coefficients; what training needs is not decided here. R2: "Principle 6 is '
            'not specific enough".'
        ),
    ),
    Claim(
        id="CDY-10",
        table=Table.PAPER,
        statement=(
            "Softmax attention has coefficients of the form φ(qᵀ A … A k)/η, with A = I, φ = exp "
            "and a normaliser."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=softmax_fits,
        quote=("… crucially captures softmax attention, on top of RNNs, SSMs, and related models"),
        place="Abstract",
        hypotheses=("the form of the coefficients as the reviews give it",),
    ),
)
