"""``Orders``: which tokens of the input the rows and columns of a layer's maps belong to."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from dsf.inspection import InspectedLayer
from dsf.report.escaping import escaped

DECODER = "decoder_input_ids"
"""The input whose texts are an inspection's ``decoder_tokens``."""


class Orders:
    """Return the tokens of rows and columns that are not in order, as in windows of a picture.

    Many maps have the same, which is written once for the layer.

    Args:
        named: the input whose tokens have texts.
        decoder: whether those of ``decoder_input_ids`` have texts of their own.
    """

    def __init__(self, layer: InspectedLayer, *, named: str, decoder: bool = False) -> None:
        self._layer, self._named, self._decoder = layer, named, decoder
        self._known: dict[tuple[int, ...], int] = {}

    def of(self, place: tuple[int, ...]) -> dict[str, int]:
        """Of one map which of the orders its rows and its keys have; empty where they are plain."""
        tokens = {"row_order": self._layer.row_order, "key_order": self._layer.column_order}
        return {
            name: self._number(each[self._layer.place(place)])
            for name, each in tokens.items()
            if each is not None
        }

    def content(self) -> dict[str, Any]:
        """All orders, and whose tokens rows and columns are."""
        rows, keys = self._layer.row_input, self._layer.column_input
        return {
            "orders": [list(order) for order in self._known],
            "same_tokens": same_tokens(self._layer),
            "disorder": why_not_in_order(self._layer),
            "inputs": [escaped(rows), escaped(keys)] if rows != keys else None,
            "row_texts": self._texts(rows),
            "key_texts": self._texts(keys),
        }

    def _texts(self, source: str) -> bool | str:
        """Whether the tokens of an input have texts, and whether these are the decoder's."""
        if self._decoder and source == DECODER:
            return "decoder"
        return has_texts(self._layer, source, self._named)

    def _number(self, tokens: Tensor) -> int:
        return self._known.setdefault(tuple(tokens.tolist()), len(self._known))


def input_of_texts(layers: Iterable[InspectedLayer]) -> str:
    """The input whose tokens the texts of an inspection are, as ``dsf.inspect`` takes them."""
    names = [name for layer in layers for name in (layer.column_input, layer.row_input) if name]
    usual = [name for name in ("input_ids", "input 0") if name in names]
    return next(iter((*usual, *names)), "")


def has_texts(layer: InspectedLayer, source: str, named: str) -> bool:
    """Whether tokens of the input ``source`` are those with texts; they are where none is known."""
    return source == named or not (layer.row_input or layer.column_input)


def same_tokens(layer: InspectedLayer) -> bool:
    """Whether row k and column k of every map are one token."""
    rows, keys, system = layer.row_order, layer.column_order, layer.system
    if getattr(system, "read_steps", system.steps) != system.steps or layer.columns == "slot":
        return False
    if layer.row_input != layer.column_input:
        return False
    if rows is None or keys is None:
        return rows is keys
    return torch.equal(rows, keys)


def why_not_in_order(layer: InspectedLayer) -> str:
    """Why row k and column k of a map are not both token k; empty if they are."""
    if layer.columns == "slot":
        return "columns are slots and not tokens"
    if not same_tokens(layer):
        return "the queries are other tokens than the keys"
    return "" if layer.row_order is None else "its tokens do not follow one another in the input"
