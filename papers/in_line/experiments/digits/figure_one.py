"""Figure 1 of the InLine paper: its printed weights, and those that follow from its arrows.

In panel (b) the figure does not print the matrix and the shift of its feature map: they are fitted,
and others fit as well.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dsf import mixers
from dsf.mixers import ingredients
from papers.drawn import apart, weights

_PRINTED = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
KEYS = tuple(map(tuple, _PRINTED["keys"]))
SOFTMAX_SCALE = 2**-0.5
IN_LINE_SCALE = 2**-0.5 / len(KEYS)


@dataclass(frozen=True)
class Panel:
    """Four queries and what the figure prints for them, one row of weights per query."""

    queries: tuple[tuple[float, float], ...]
    feature_map: Callable[[Tensor], Tensor]
    softmax: tuple[tuple[float, ...], ...]
    linear: tuple[tuple[float, ...], ...]
    in_line: tuple[tuple[float, ...], ...]


def shifted_relu(x: Float[Tensor, "*axes 2"]) -> Float[Tensor, "*axes 2"]:
    """``ReLU(A x + b)``, the feature map of panel (b)."""
    A = x.new_tensor([[-1.71, 1.62], [0.351, 0.758]])
    return ingredients.relu(x @ A.mT + x.new_tensor([-1.003, 0.701]))


def _panel(name: str, feature_map: Callable[[Tensor], Tensor]) -> Panel:
    parts = {key: tuple(map(tuple, rows)) for key, rows in _PRINTED[name].items()}
    return Panel(feature_map=feature_map, **parts)


PANELS = {"a": _panel("a", ingredients.relu), "b": _panel("b", shifted_relu)}


def our_weights(
    panel: Panel, *, softmax_scale: float = SOFTMAX_SCALE, in_line_scale: float = IN_LINE_SCALE
) -> dict[str, Float[Tensor, "queries keys"]]:
    """Return all rows by attention, as the panel names them; the map is square."""
    query = torch.tensor(panel.queries, dtype=torch.float64)
    key = torch.tensor(KEYS, dtype=torch.float64)
    tokens = {"key": key, "value": torch.ones_like(key[:, :1]), "causal": False}
    features = tokens | {"key": panel.feature_map(key), "feature_map": ingredients.identity}
    softmax = mixers.SoftmaxAttention(query=query, scale=softmax_scale, **tokens)
    linear = mixers.LinearAttention(query=query, feature_map=panel.feature_map, **tokens)
    in_line = mixers.InLineAttention(query=in_line_scale * panel.feature_map(query), **features)
    return {
        "softmax": weights(softmax),
        "linear": weights(linear),
        "in_line": weights(in_line),
    }


def largest_differences(panel: Panel, **scales: float) -> dict[str, float]:
    """Return the largest distance of a weight from the printed one, by attention."""
    return {
        attention: apart(rows, rows.new_tensor(getattr(panel, attention)))
        for attention, rows in our_weights(panel, **scales).items()
    }
