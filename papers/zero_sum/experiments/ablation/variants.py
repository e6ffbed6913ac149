"""Zero-sum attention with its orders switched on and off."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf import mixers, respond
from dsf.layers import ZeroSumAttention

Change = Callable[[mixers.ZeroSumAttention], mixers.ZeroSumAttention]


class Reordered(nn.Module):
    """A layer of zero-sum attention whose mixer is changed before it mixes.

    Args:
        layer: where all weights are; some have no effect after the change.
        change: what is done to the mixer.
        normalised: whether every head's response goes through its LayerNorm.
    """

    def __init__(self, layer: ZeroSumAttention, change: Change, *, normalised: bool) -> None:
        super().__init__()
        self.layer, self.change, self.normalised = layer, change, normalised

    def forward(self, x: Float[Tensor, "batch time model"]) -> Float[Tensor, "batch time model"]:
        """What the layer does with the changed mixer."""
        mixer = self.change(self.layer.mixer(x))
        mixed = respond(mixer.system(), mixer.signal())
        return (
            self.layer.finish(x, mixed)
            if self.normalised
            else self.layer.out(mixed.squeeze(-2).transpose(-2, -3).flatten(-2))
        )


def _with(mixer: mixers.ZeroSumAttention, orders: Mapping[str, float]) -> mixers.ZeroSumAttention:
    """Constants in the place of the trained factors of some orders."""
    parts = {name: torch.full_like(mixer.logit, value) for name, value in orders.items()}
    return replace(mixer, **parts)


ORDERS: dict[str, Mapping[str, float]] = {
    "full": {},
    "zero order kept": {},
    "first order only": {"higher_order": 0.0},
    "higher orders only": {"first_order": 0.0},
    "plain softmax weights": {"zero_order": 1.0, "first_order": 1.0, "higher_order": 1.0},
    "no gates": {"first_order": 1.0, "higher_order": 1.0},
    "no LayerNorm": {},
}
"""The orders that are constant; all others have trained gates. The weights of all three orders at
one are softmax(s), those of the first and the higher ones softmax(s) - 1/t."""


def layer(name: str, *, width: int, n: int) -> Reordered:
    """The variant ``name`` with keys of width ``n``."""
    return Reordered(
        ZeroSumAttention(width, key_size=n, zero_order=name == "zero order kept"),
        partial(_with, orders=ORDERS[name]),
        normalised=name != "no LayerNorm",
    )
