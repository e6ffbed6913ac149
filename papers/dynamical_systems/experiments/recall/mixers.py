"""The mixers by name, from a width and a state expansion n: one head, no filter of their own."""

from collections.abc import Callable
from functools import partial

import torch

from dsf import layers
from dsf.mixers import ingredients

META = partial(layers.MetaLinearAttention, filter_width=None)

KEYED: dict[str, Callable[..., layers.Layer]] = {
    "softmax": layers.SoftmaxAttention,
    "linear": layers.LinearAttention,
    "normalised exp": partial(layers.NormalisedAttention, normaliser=ingredients.exp),
    "normalised softplus": partial(layers.NormalisedAttention, normaliser=ingredients.softplus),
    "normalised sigmoid": partial(layers.NormalisedAttention, normaliser=torch.sigmoid),
    "gla": layers.GatedLinearAttention,
    "delta net": partial(layers.DeltaNet, filter_width=None),
    "metala": META,
    "metala with key": partial(META, with_key=True),
    "metala fixed decay": partial(META, fixed_decay=True),
    "metala plain": partial(META, augmentation=None),
    "zeros": layers.ZeroSumAttention,
}
STATED: dict[str, Callable[..., layers.Layer]] = {
    "ssd": layers.StateSpaceDuality,
    "s6": layers.SelectiveStateSpace,
}

CELLS: dict[str, Callable[..., layers.Layer]] = {
    "quasi-lstm": partial(layers.QuasiLSTM, filter_width=1),
    "quasi-lstm reversed": partial(layers.QuasiLSTM, filter_width=1, transition="reversed"),
}
"""Two states for each channel of the model, whatever n is."""

NAMES = (*KEYED, *STATED, *CELLS)


def layer(name: str, *, width: int, n: int) -> layers.Layer:
    """The layer ``name``: ``n`` is the width of its keys, or its states for each channel."""
    if name in CELLS:
        return CELLS[name](width)
    if name in STATED:
        return STATED[name](width, state_size=n)
    return KEYED[name](width, key_size=n)
