"""The attention rows of the paper's table of systems, one head and several."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from dsf.claims.dynamical_systems.direct_formulas import by_heads, kernel_weights, softmax_weights
from dsf.claims.dynamical_systems.drawn import normal, uniform
from dsf.claims.dynamical_systems.paper_form import Form, one_system, stacked
from dsf.claims.dynamical_systems.separable import separable
from dsf.mixers import LinearAttention, NormalisedAttention, SoftmaxAttention
from dsf.mixers.ingredients import elu_plus_one, identity
from dsf.systems.composite import Operator

STEPS, MODEL, KEY = 14, 4, 4
HIGH = 40
NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": torch.nn.functional.softplus,
    "sigmoid": torch.sigmoid,
}


class Heads:
    """One drawn input and its projections, cut into heads."""

    def __init__(self, heads: int) -> None:
        rng = np.random.default_rng(heads)
        self.u = normal(rng, STEPS, MODEL)
        self.to_value = normal(rng, MODEL, MODEL)
        self.query, self.key = (
            self._cut(0.5 * self.u @ normal(rng, MODEL, KEY), heads) for _ in range(2)
        )
        self.value = self._cut(self.u @ self.to_value.T, heads)
        self.eta = (normal(rng, heads, STEPS), uniform(rng, heads, STEPS, low=0.5, high=2.0))

    def _cut(self, tokens: Tensor, heads: int) -> Tensor:
        return tokens.unflatten(-1, (heads, -1)).transpose(0, 1)

    def form(self, name: str, mixed: Operator, weights: Tensor) -> Form:
        """The paper's system, and every head's weights on its values."""
        heads, _, channels = self.value.shape
        return Form(
            f"{name}, {heads} head{'s' if heads > 1 else ''}",
            stacked(one_system(mixed), channels=channels, projection=self.to_value),
            self.u,
            by_heads(weights, self.value),
        )


def attention_forms() -> Iterator[Form]:
    """Every attention-like row, with one, two and four heads."""
    for heads in (1, 2, 4):
        drawn = Heads(heads)
        query, key, value = drawn.query, drawn.key, drawn.value
        features = elu_plus_one(query), elu_plus_one(key)
        yield drawn.form(
            "softmax attention, cache",
            SoftmaxAttention(query=query, key=key, value=value).system(),
            softmax_weights(query, key),
        )
        if query.shape[-1] == 1:  # so few monomials that the series can go to rounding
            yield drawn.form(
                f"softmax attention, monomials to order {HIGH}",
                SoftmaxAttention(query=query, key=key, value=value).expansion(HIGH).system(),
                softmax_weights(query, key),
            )
        yield drawn.form(
            "separable attention",
            separable(*features, drawn.eta[1]),
            kernel_weights(*features, drawn.eta[1]),
        )
        yield drawn.form(
            "linear attention, elu + 1",
            LinearAttention(query=query, key=key, value=value).system(),
            kernel_weights(*features),
        )
        yield drawn.form(
            "linear attention, identity, not normalised",
            LinearAttention(
                query=query, key=key, value=value, feature_map=identity, normalised=False
            ).system(),
            kernel_weights(query, key, torch.ones_like(drawn.eta[0])),
        )
        for name, g in NORMALISERS.items():
            eta = g(drawn.eta[0])
            yield drawn.form(
                f"normalised attention, {name}",
                NormalisedAttention(query=query, key=key, value=value, normaliser=eta).system(),
                kernel_weights(query, key, eta),
            )
