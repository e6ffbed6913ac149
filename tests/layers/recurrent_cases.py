"""The layers with a decaying state, with and without each of their options."""

from functools import partial

import torch

from dsf import layers
from tests.layers import literal_recurrent as literal
from tests.layers.drawn import MODEL, Case

D, N, H = MODEL, 4, 2
META = 3 * D**2 + 2 * D * N + D

CASES = {
    "SelectiveStateSpace": Case(
        build=partial(layers.SelectiveStateSpace, D, state_size=N),
        literal=literal.selective,
        parameters=D**2 + 2 * D + 3 * D * N + 2 * D,
    ),
    "Mamba": Case(
        build=partial(layers.Mamba, D, state_size=N),
        literal=literal.mamba,
        parameters=3 * D**2 + 2 * D + 3 * D * N + 7 * D,
    ),
    "StateSpaceDuality": Case(
        build=partial(layers.StateSpaceDuality, D, state_size=N),
        literal=partial(literal.duality, states=N),
        parameters=D**2 + 2 * D * N + 4 * D + 1,
        idle=D,
    ),
    "GatedLinearAttention": Case(
        build=partial(layers.GatedLinearAttention, D, heads=H),
        literal=partial(literal.gated, heads=H, keys=D // 2),
        parameters=4 * D**2 + 24 * D + D // 2 + D,
    ),
    "DeltaNet": Case(
        build=partial(layers.DeltaNet, D, key_size=N, heads=H),
        literal=partial(literal.delta, heads=H, keys=N),
        parameters=2 * D**2 + 2 * D * N + D * H + 4 * (2 * N + D),
    ),
    "DeltaNet, unfiltered": Case(
        build=partial(layers.DeltaNet, D, filter_width=None),
        literal=partial(literal.delta, heads=1, keys=D),
        parameters=4 * D**2 + D,
    ),
    "MetaLinearAttention": Case(
        build=partial(layers.MetaLinearAttention, D, heads=H),
        literal=partial(literal.meta, heads=H),
        parameters=4 * D**2 + D + D // 2 + 4 * D,
    ),
    "MetaLinearAttention, linear": Case(
        build=partial(
            layers.MetaLinearAttention, D, heads=H, augmentation="linear", filter_width=2
        ),
        literal=partial(literal.meta, heads=H, augmented=lambda x: x),
        parameters=META + N + 2 * D,
    ),
    "MetaLinearAttention, bare": Case(
        build=partial(layers.MetaLinearAttention, D, augmentation=None, filter_width=None),
        literal=partial(literal.meta, heads=1, augmented=torch.zeros_like),
        parameters=META,
    ),
    "MetaLinearAttention, with a key": Case(
        build=partial(layers.MetaLinearAttention, D, heads=H, with_key=True),
        literal=partial(literal.meta, heads=H),
        parameters=META + D * N + N + 4 * D,
    ),
    "MetaLinearAttention, fixed decay": Case(
        build=partial(layers.MetaLinearAttention, D, heads=H, fixed_decay=True),
        literal=partial(literal.meta, heads=H),
        parameters=META - D * N + 2 * N + 4 * D,
    ),
    "QuasiLSTM": Case(
        build=partial(layers.QuasiLSTM, D),
        literal=literal.quasi,
        parameters=18 * D**2 + 16 * D,
    ),
    "QuasiLSTM, reversed": Case(
        build=partial(layers.QuasiLSTM, D, transition="reversed"),
        literal=literal.quasi,
        parameters=18 * D**2 + 16 * D + 1,
    ),
    "RGLRU": Case(
        build=partial(layers.RGLRU, D),
        literal=literal.real_gated,
        parameters=14 * D**2 + 16 * D,
    ),
}
