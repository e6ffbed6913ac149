"""The attention layers, with and without each of their options."""

from functools import partial

import torch

from dsf import layers
from dsf.mixers import ingredients
from tests.layers import literal_attention as literal
from tests.layers import literal_zero_sum
from tests.layers.drawn import MODEL, Case

D, N, H = MODEL, 4, 2
ATTENTION = 2 * D**2 + 2 * D * N + 2 * D + 2 * N
IN_LINE = 4 * D**2 + 4 * D
ZERO_SUM = 5 * (D**2 + D) + 3 * H * (D + 1) + D + H


def residual(*, class_token):
    return layers.LocalResidual(D, heads=H, grid=(3, 4), class_token=class_token)


CASES = {
    # A key's bias adds the same to every score of a row.
    "SoftmaxAttention": Case(
        build=partial(layers.SoftmaxAttention, D, key_size=N, heads=H),
        literal=partial(literal.softmax, heads=H),
        parameters=ATTENTION,
        idle=N,
    ),
    "SoftmaxAttention, every token": Case(
        build=partial(layers.SoftmaxAttention, D, heads=4, causal=False),
        literal=partial(literal.softmax, heads=4, causal=False),
        parameters=4 * D**2 + 4 * D,
        idle=D,
    ),
    "LinearAttention": Case(
        build=partial(layers.LinearAttention, D, key_size=N, heads=H),
        literal=partial(literal.kernel, heads=H),
        parameters=ATTENTION,
    ),
    "LinearAttention, every token": Case(
        build=partial(layers.LinearAttention, D, key_size=N, heads=H, causal=False),
        literal=partial(literal.kernel, heads=H, causal=False),
        parameters=ATTENTION,
    ),
    "LinearAttention, plain": Case(
        build=partial(
            layers.LinearAttention,
            D,
            key_size=N,
            feature_map=ingredients.identity,
            normalised=False,
        ),
        literal=partial(literal.kernel, heads=1, feature_map=lambda x: x, normalised=False),
        parameters=ATTENTION,
    ),
    "NormalisedAttention, exp": Case(
        build=partial(layers.NormalisedAttention, D, key_size=N, heads=H),
        literal=partial(literal.normalised, heads=H, gain=lambda x: torch.exp(-x)),
        parameters=ATTENTION + H * (D + 1),
    ),
    "NormalisedAttention, softplus": Case(
        build=partial(
            layers.NormalisedAttention, D, key_size=N, heads=H, normaliser=ingredients.softplus
        ),
        literal=partial(
            literal.normalised, heads=H, gain=lambda x: 1 / torch.log(1 + torch.exp(x))
        ),
        parameters=ATTENTION + H * (D + 1),
    ),
    "NormalisedAttention, sigmoid": Case(
        build=partial(layers.NormalisedAttention, D, key_size=N, heads=H, normaliser=torch.sigmoid),
        literal=partial(literal.normalised, heads=H, gain=lambda x: 1 + torch.exp(-x)),
        parameters=ATTENTION + H * (D + 1),
    ),
    # The mean score is taken off, and with it the key's bias.
    "InLineAttention": Case(
        build=partial(layers.InLineAttention, D, heads=H),
        literal=partial(literal.in_line, heads=H),
        parameters=IN_LINE,
        idle=D,
    ),
    "InLineAttention, features": Case(
        build=partial(layers.InLineAttention, D, heads=H, feature_map=ingredients.exp),
        literal=partial(literal.in_line, heads=H, feature_map=torch.exp),
        parameters=IN_LINE,
    ),
    "InLineAttention, unscaled, every token": Case(
        build=partial(layers.InLineAttention, D, heads=H, scaled=False, causal=False),
        literal=partial(literal.in_line, heads=H, scaled=False, causal=False),
        parameters=IN_LINE,
        idle=D,
    ),
    "InLineAttention on a grid": Case(
        build=lambda: layers.InLineAttention(
            D, heads=H, causal=False, residual=residual(class_token=False)
        ),
        literal=partial(
            literal.in_line,
            heads=H,
            causal=False,
            added=partial(literal.local_residual, heads=H, grid=(3, 4), outside=0),
        ),
        parameters=IN_LINE + 10 * D**2 // H + 10 * D,
        idle=D,
        steps=12,
    ),
    "InLineAttention on a grid with a class token": Case(
        build=lambda: layers.InLineAttention(
            D, heads=H, causal=False, residual=residual(class_token=True)
        ),
        literal=partial(
            literal.in_line,
            heads=H,
            causal=False,
            added=partial(literal.local_residual, heads=H, grid=(3, 4), outside=1),
        ),
        parameters=IN_LINE + 10 * D**2 // H + 10 * D,
        idle=D,
        steps=13,
    ),
    # Two orders are in use, three are projected.
    "ZeroSumAttention": Case(
        build=partial(layers.ZeroSumAttention, D, heads=H),
        literal=partial(literal_zero_sum.scanned, heads=H),
        parameters=ZERO_SUM,
        idle=H * (D + 1),
    ),
    "ZeroSumAttention, zero order": Case(
        build=partial(layers.ZeroSumAttention, D, heads=H, rotary=False, zero_order=True),
        literal=partial(literal_zero_sum.scanned, heads=H, rotary=False, zero_order=True),
        parameters=ZERO_SUM,
    ),
    "ZeroSumAttention, every token": Case(
        build=partial(layers.ZeroSumAttention, D, heads=H, causal=False),
        literal=partial(literal_zero_sum.scanned, heads=H, causal=False),
        parameters=ZERO_SUM,
        idle=H * (D + 1),
    ),
    # Weights that sum to zero take no notice of the value's bias.
    "ZeroSumAttention, radial": Case(
        build=partial(layers.ZeroSumAttention, D, heads=H, angle=False),
        literal=partial(literal_zero_sum.scanned, heads=H, angle=False),
        parameters=ZERO_SUM - 2 * (D**2 + D),
        idle=H * (D + 1) + D,
    ),
    # The biases of the keys, those of the values, and the order that is not in use.
    "ZeroSumSoftmaxAttention": Case(
        build=partial(layers.ZeroSumSoftmaxAttention, D, heads=H),
        literal=partial(literal_zero_sum.paired, heads=H),
        parameters=4 * (D**2 + D) + 3 * H * (D + 1),
        idle=2 * D + H * (D + 1),
    ),
    "ZeroSumSoftmaxAttention, zero order, every token": Case(
        build=partial(
            layers.ZeroSumSoftmaxAttention, D, heads=H, causal=False, zero_order=True, key_size=N
        ),
        literal=partial(literal_zero_sum.paired, heads=H, causal=False, zero_order=True),
        parameters=ATTENTION + 3 * H * (D + 1),
        idle=N,
    ),
}
