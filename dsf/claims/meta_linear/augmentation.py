"""The self-augmentation: what its sigmoid changes, and what LayerNorm makes of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import sympy
import torch
from torch import Tensor
from torch.nn import Identity
from torch.nn.functional import layer_norm

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued, refuted
from dsf.claims.meta_linear.random_maps import normal
from dsf.evaluate import respond
from dsf.layers import MetaLinearAttention
from dsf.mixers import MetaLinearAttention as Mixer

STEPS, KEY, WIDTH = 32, 16, 8
MODEL = 16
Kind = Literal["sigmoid", "linear"]
KINDS: tuple[Kind, ...] = ("sigmoid", "linear")
ROUNDING = 1e-12


def augmentation_is_linear(squash: Callable[[Tensor], Tensor] = torch.sigmoid) -> Certificate:
    """Superpose two value sequences; compare a layer with the sigmoid and one without."""
    mixer = _mixer()
    other = normal(np.random.default_rng(1), STEPS, WIDTH)
    both, one, two = (
        _response(replace(mixer, value=value), squash)
        for value in (mixer.value + other, mixer.value, other)
    )
    missed = both - one - two
    x = normal(np.random.default_rng(2), 1, STEPS, MODEL)
    outputs = [_layer(kind, 1.0)(x) for kind in KINDS]
    apart = (both - _response(replace(mixer, value=mixer.value + other), Identity())).abs()
    witness = {
        "superposition error, largest": float(missed.abs().max()),
        "superposition error, median": float(missed.abs().median()),
        "responses of the two formulas apart": float(apart.max()),
        "outputs of the two layers apart": float((outputs[0] - outputs[1]).abs().max()),
        "sigmoid": "σ(0) = 0.5, so two zero sequences already miss by 0.5",
    }
    return refuted(
        "the layer with a sigmoid around the augmentation and the one whose augmentation is a "
        "diagonal of the map are the same, linear in the values",
        float(missed.abs().max()),
        beyond=1e-9,
        witness=witness,
        method="superposition of two random value sequences",
    )


def zero_augmentation_is_invisible(strength: float = 0.0) -> Certificate:
    """Centre a shifted vector with symbols; compare a layer with and without augmentation."""
    parts = sympy.Matrix(sympy.symbols("o:4"))
    shift = sympy.ones(4, 1) / 2
    moved = _centred(parts + shift) - _centred(parts)
    x = normal(np.random.default_rng(2), 1, STEPS, MODEL)
    apart = float((_layer("sigmoid", strength)(x) - _layer(None)(x)).abs().max())
    return argued(
        "at w = 0 the augmentation adds the constant 0.5, which LayerNorm without weights removes",
        "LayerNorm sees its input only through the differences from the mean, and a constant "
        "leaves them alone",
        {
            "a shift leaves centred symbols alone": moved.applyfunc(sympy.expand).is_zero_matrix,
            "a layer at w = 0 and one without augmentation agree": apart < ROUNDING,
        },
        method="symbols, and two layers with the same weights",
        observed=apart,
    )


def scaled_query_is_harmless(*, augmented: bool = True) -> Certificate:
    """Multiply q by d_k^{-1/2} in the state's response only, then LayerNorm; the later half."""
    mixer = _mixer()
    plain = respond(replace(mixer, augmentation=None).system(), mixer.signal()).squeeze(-2)
    own = _own_term(mixer).sigmoid()
    apart = {}
    for name, extra in (("with augmentation", own), ("without", torch.zeros_like(own))):
        kernel = layer_norm(KEY**-0.5 * plain + extra, (WIDTH,))
        paper = layer_norm(plain + extra, (WIDTH,))
        apart[name] = float((kernel - paper)[STEPS // 2 :].abs().max())
    return refuted(
        "the factor d_k^{-1/2} on q, which the augmentation does not get, vanishes in LayerNorm",
        apart["with augmentation" if augmented else "without"],
        beyond=1e-2,
        witness={"largest difference after LayerNorm": apart, "factor": KEY**-0.5},
        method=f"{STEPS} tokens, {KEY} channels of key, {WIDTH} of value",
    )


def _mixer() -> Mixer:
    rng = np.random.default_rng(0)
    return Mixer(
        query=normal(rng, STEPS, KEY),
        decay=torch.sigmoid(normal(rng, STEPS, KEY)) ** (1 / 16),
        value=normal(rng, STEPS, WIDTH),
        augmentation=normal(rng, KEY),
    )


def _own_term(mixer: Mixer) -> Tensor:
    """q_t.(w ⊙ (1 - α_t)) v_t: what the augmentation adds to the linear response."""
    without = replace(mixer, augmentation=None)
    return (
        respond(mixer.system(), mixer.signal()) - respond(without.system(), mixer.signal())
    ).squeeze(-2)


def _response(mixer: Mixer, squash: Callable[[Tensor], Tensor]) -> Tensor:
    plain = respond(replace(mixer, augmentation=None).system(), mixer.signal()).squeeze(-2)
    return plain + squash(_own_term(mixer))


def _layer(kind: Kind | None, strength: float = 0.0) -> Callable[[Tensor], Tensor]:
    """The same lively weights for all kinds; ``strength`` fills the augmentation."""
    layer = MetaLinearAttention(MODEL, augmentation=kind).double().requires_grad_(False)
    rng = np.random.default_rng(3)
    for name, weight in layer.named_parameters():
        if name == "augmentation":
            weight.fill_(strength)
        else:
            weight.copy_(normal(rng, *weight.shape) / 2)
    return layer


def _centred(vector: sympy.Matrix) -> sympy.Matrix:
    return vector - sympy.ones(len(vector), 1) * sum(vector) / len(vector)


CLAIMS = (
    Claim(
        id="MLA-16",
        statement=(
            "The layer with a sigmoid around its self-augmentation and the form with the "
            "augmentation on the diagonal of the map are the same, linear in the values."
        ),
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=augmentation_is_linear,
        note=(
            "Superposition fails by about 0.5, the sigmoid's value at zero. The two are the same "
            "exactly when the sigmoid is left out; only that form has a map."
        ),
    ),
    Claim(
        id="MLA-17",
        statement=(
            "At its initial value w = 0 the self-augmentation cannot be seen behind a LayerNorm "
            "without weights."
        ),
        standing=Standing.DERIVED,
        expected=Verdict.PROVED,
        check=zero_augmentation_is_invisible,
    ),
    Claim(
        id="MLA-18",
        statement="The released kernel's factor d_k^(-1/2) on the query makes no difference.",
        standing=Standing.CODE,
        expected=Verdict.REFUTED,
        check=scaled_query_is_harmless,
        note=(
            "Without augmentation LayerNorm removes the factor up to its ε. With it the two terms "
            "are weighted differently, since the kernel leaves the augmentation unscaled."
        ),
    ),
)
