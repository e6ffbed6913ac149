"""Figure 1 of the InLine paper as numbers: keys, queries, and the 96 weights it prints.

Two panels of four queries over the same four keys in the plane. The arrows are digitised from the
figure. In panel (b) the figure does not print the matrix and the shift of its feature map: they are
fitted, and others fit as well.

Source: Han et al. 2024, arXiv:2412.06590, Figure 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.mixers import InLineAttention, LinearAttention, SoftmaxAttention
from dsf.mixers.ingredients.feature_maps import identity, relu

KEYS = ((0.605, 1.816), (1.000, 1.002), (1.925, 0.636), (1.790, 0.298))
"""The tip of the third is hidden in the figure."""

SOFTMAX_SCALE = 2**-0.5
IN_LINE_SCALE = 2**-0.5 / len(KEYS)

Points = tuple[tuple[float, float], ...]
Weights = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Four queries and what the figure prints for them, one row of weights per query.

    The figure prints one row of linear attention: all four queries get the same.
    """

    queries: Points
    feature_map: Callable[[Tensor], Tensor]
    softmax: Weights
    linear: Weights
    in_line: Weights


def shifted_relu(x: Float[Tensor, "*axes 2"]) -> Float[Tensor, "*axes 2"]:
    """``ReLU(A x + b)``, the feature map of panel (b)."""
    A = x.new_tensor([[-1.71, 1.62], [0.351, 0.758]])
    return relu(x @ A.mT + x.new_tensor([-1.003, 0.701]))


PANELS = {
    "a": Panel(
        queries=((0.394, 0.715), (0.684, 1.234), (0.931, 1.675), (1.123, 2.025)),
        feature_map=relu,
        softmax=(
            (0.31, 0.23, 0.25, 0.20),
            (0.36, 0.22, 0.25, 0.17),
            (0.41, 0.20, 0.24, 0.15),
            (0.44, 0.19, 0.23, 0.13),
        ),
        linear=((0.32, 0.23, 0.25, 0.19),) * 4,
        in_line=(
            (0.31, 0.23, 0.25, 0.20),
            (0.35, 0.22, 0.26, 0.17),
            (0.39, 0.21, 0.26, 0.14),
            (0.42, 0.21, 0.26, 0.12),
        ),
    ),
    "b": Panel(
        queries=((0.058, 0.717), (0.309, 0.977), (0.705, 1.394), (1.243, 1.961)),
        feature_map=shifted_relu,
        softmax=(
            (0.36, 0.25, 0.21, 0.18),
            (0.37, 0.23, 0.22, 0.17),
            (0.39, 0.21, 0.24, 0.16),
            (0.41, 0.19, 0.25, 0.14),
        ),
        linear=((0.31, 0.24, 0.25, 0.21),) * 4,
        in_line=(
            (0.35, 0.23, 0.24, 0.18),
            (0.37, 0.23, 0.24, 0.16),
            (0.40, 0.23, 0.24, 0.13),
            (0.45, 0.22, 0.24, 0.10),
        ),
    ),
}


def softmax_weights(panel: Panel, *, scale: float = SOFTMAX_SCALE) -> Float[Tensor, "queries keys"]:
    """Rows of softmax attention, ``scale`` on every score."""
    query, key, value = _tokens(panel)
    mixer = SoftmaxAttention(query=query, key=key, value=value, scale=scale, causal=False)
    return attention_map(mixer.system())


def linear_weights(panel: Panel) -> Float[Tensor, "queries keys"]:
    """Rows of linear attention; a scale would cancel."""
    query, key, value = _tokens(panel)
    mixer = LinearAttention(
        query=query, key=key, value=value, feature_map=panel.feature_map, causal=False
    )
    return attention_map(mixer.system())


def in_line_weights(panel: Panel, *, scale: float = IN_LINE_SCALE) -> Float[Tensor, "queries keys"]:
    """Rows of InLine attention, ``scale`` on every product of features."""
    query, key, value = _tokens(panel)
    mixer = InLineAttention(
        query=scale * panel.feature_map(query),
        key=panel.feature_map(key),
        value=value,
        feature_map=identity,
        causal=False,
    )
    return attention_map(mixer.system())


def our_weights(panel: Panel) -> dict[str, Float[Tensor, "queries keys"]]:
    """All rows, by attention: ``softmax``, ``linear`` and ``in_line``, as the panel names them."""
    return {
        "softmax": softmax_weights(panel),
        "linear": linear_weights(panel),
        "in_line": in_line_weights(panel),
    }


def largest_differences(panel: Panel) -> dict[str, float]:
    """The largest distance of a weight from the printed one, by attention."""
    return {
        attention: (weights - weights.new_tensor(getattr(panel, attention))).abs().max().item()
        for attention, weights in our_weights(panel).items()
    }


def _tokens(panel: Panel) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in float64. As many queries as keys: the map is square."""
    query = torch.tensor(panel.queries, dtype=torch.float64)
    key = torch.tensor(KEYS, dtype=torch.float64)
    return query, key, torch.ones_like(key[:, :1])
