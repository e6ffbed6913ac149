"""What the structure of A does to a key on its way, and which attention fits the form at all."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import held, refuted
from dsf.evaluate import attention_map
from dsf.ingredients.feature_maps import FeatureMap, elu_plus_one
from dsf.mixers import LinearAttention
from dsf.transition import Diagonal, DiagonalPlusLowRank, ScaledIdentity
from dsf.transition.base import Transition

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


def feature_maps_fit(feature_map: FeatureMap = elu_plus_one) -> Certificate:
    """Two keys with one product q.k, and the weights that linear attention gives them."""
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    key = torch.tensor([[1.0, 0.0], [1.0, 3.0]]).double()
    mixer = LinearAttention(
        query=query, key=key, value=key, feature_map=feature_map, normalised=False, causal=False
    )
    products = (key @ query[0]).tolist()
    weights = attention_map(mixer.system())[0].tolist()
    return refuted(
        "the coefficients of linear attention with a feature map are a function of q.k",
        abs(weights[0] - weights[1]) if products[0] == products[1] else 0.0,
        beyond=NEAR,
        witness={"query": query[0].tolist(), "keys": key.tolist()}
        | {"products q.k": products, "weights": weights},
        method="two keys, one query",
    )


CLAIMS = (
    Claim(
        id="CDY-6",
        statement="The structure of A fixes how keys are transformed: a scalar scales them, a "
        "diagonal scales their axes, a Householder matrix reflects them.",
        standing=Standing.SECOND_HAND,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=key_transformations,
    ),
    Claim(
        id="CDY-7",
        statement="Linear attention with a feature map has coefficients of the form φ(qᵀk).",
        standing=Standing.SECOND_HAND,
        expected=Verdict.REFUTED,
        check=feature_maps_fit,
        note="With elu + 1 and q = (1, 0) the keys (1, 0) and (1, 3) have the same product with q "
        "and the weights 5 and 8.",
    ),
)
