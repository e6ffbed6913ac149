"""``Orders``: which tokens of the input the rows and columns of a layer's maps belong to."""

from typing import Any

import torch
from torch import Tensor

from dsf.inspection import InspectedLayer


class Orders:
    """The tokens of rows and columns where these do not stand in order, as in windows of a picture.

    Many maps have the same, which is written once for the layer.
    """

    def __init__(self, layer: InspectedLayer) -> None:
        self._layer = layer
        self._known: dict[tuple[int, ...], int] = {}

    def of(self, place: tuple[int, ...]) -> dict[str, int]:
        """Of one map which of the orders its rows and its keys have; empty where they are plain."""
        named = {"row_order": self._layer.row_tokens, "key_order": self._layer.column_tokens}
        return {
            name: self._number(tokens[self._layer.place(place)])
            for name, tokens in named.items()
            if tokens is not None
        }

    def content(self) -> dict[str, Any]:
        """All orders, and whether rows and columns are the same tokens, and in their order."""
        return {
            "orders": [list(order) for order in self._known],
            "same_tokens": same_tokens(self._layer),
            "in_order": in_order(self._layer),
        }

    def _number(self, tokens: Tensor) -> int:
        return self._known.setdefault(tuple(tokens.tolist()), len(self._known))


def same_tokens(layer: InspectedLayer) -> bool:
    """Whether row k and column k of every map are one token."""
    rows, keys, system = layer.row_tokens, layer.column_tokens, layer.system
    if getattr(system, "read_steps", system.steps) != system.steps or layer.columns == "slot":
        return False
    if rows is None or keys is None:
        return rows is keys
    return torch.equal(rows, keys)


def in_order(layer: InspectedLayer) -> bool:
    """Whether row k and column k of every map are token k."""
    return same_tokens(layer) and layer.row_tokens is None
