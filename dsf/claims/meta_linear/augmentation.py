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
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, refuted, shown
from dsf.claims.meta_linear.random_maps import normal
from dsf.evaluate import respond
from dsf.layers import MetaLinearAttention
from dsf.mixers import MetaLinearAttention as Mixer

STEPS, KEY, WIDTH = 32, 16, 8
MODEL, AT = 16, 12
Kind = Literal["sigmoid", "linear"]
KINDS: tuple[Kind, ...] = ("sigmoid", "linear")
ROUNDING = 1e-12


def parallel_form_is_the_layer(squash: Callable[[Tensor], Tensor] = torch.sigmoid) -> Certificate:
    """Superpose two value sequences; compare a layer with the sigmoid and one without."""
    mixer = _mixer()
    other = normal(np.random.default_rng(1), STEPS, WIDTH)
    values = (mixer.value + other, mixer.value, other)
    both, one, two = (_response(replace(mixer, value=value), squash) for value in values)
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
        "the layer with a sigmoid around the augmentation is the parallel form, whose augmentation "
        "is a diagonal of the map",
        float(apart.max()),
        beyond=1e-9,
        witness=witness,
        method=f"{STEPS} tokens, responses of both formulas; superposition of two value sequences",
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


def scaled_query_is_seen(*, augmented: bool = True) -> Certificate:
    """Multiply q by d_k^{-1/2} in the state's response only, then LayerNorm; the later half."""
    mixer = _mixer()
    plain = respond(replace(mixer, augmentation=None).system(), mixer.signal()).squeeze(-2)
    own = _own_term(mixer).sigmoid()
    apart = {}
    for name, extra in (("with augmentation", own), ("without", torch.zeros_like(own))):
        kernel = layer_norm(KEY**-0.5 * plain + extra, (WIDTH,))
        paper = layer_norm(plain + extra, (WIDTH,))
        apart[name] = float((kernel - paper)[STEPS // 2 :].abs().max())
    return shown(
        "the factor d_k^{-1/2} on q, which the augmentation does not get, does not vanish in "
        "LayerNorm",
        apart["with augmentation" if augmented else "without"],
        beyond=1e-2,
        case={"largest difference after LayerNorm": apart, "factor": KEY**-0.5},
        method=f"{STEPS} tokens, {KEY} channels of key, {WIDTH} of value",
    )


def later_tokens_stay(*, written: bool = False) -> Certificate:
    """Change the augmentation of one token and compare the outputs of all tokens bit by bit.

    Args:
        written: whether the augmentation is written to the state too, which (22) does not.
    """
    mixer = _mixer()
    plain = replace(mixer, augmentation=None)

    def outputs(own: Tensor) -> Tensor:
        value = mixer.value + own.sigmoid() if written else mixer.value
        kept = replace(plain, value=value)
        return respond(kept.system(), kept.signal()).squeeze(-2) + own.sigmoid()

    own = _own_term(mixer)
    before = outputs(own)
    own[AT] = 2 * own[AT] + 1
    moved = (outputs(own) - before).abs()
    later = float(moved[AT + 1 :].max())
    return argued(
        "changing the augmentation of one token moves its own output and no later one",
        "the term is added to the output, and the state is computed without it",
        {
            "the token's own output moves": float(moved[AT].max()) > ROUNDING,
            "outputs of all other tokens keep every bit": later == 0
            and float(moved[:AT].max()) == 0,
        },
        method=f"{STEPS} tokens, the augmentation of token {AT} changed, bit comparison",
        observed=later,
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
    """The same random weights for all kinds; ``strength`` fills the augmentation."""
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
        table=Table.PAPER,
        statement=(
            "The layer with self-augmentation, (A35), is computed by the parallel form (A38)."
        ),
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=parallel_form_is_the_layer,
        quote="First, it maintains parallel computing as shown in Eq. (A38); …",
        place="A3.2; (22), (A35) against (A38)",
        hypotheses=(
            '"σ_aug(·) is a nonlinearity …  We choose Sigmoid(·) in this paper."',
            "the released code has the sigmoid too (metala/modeling_metala.py 146-148)",
        ),
        stands=(
            "Without the sigmoid (A35) and (A38) are equal. With it the layer can still be "
            "computed in parallel: the augmentation of a token needs no other token."
        ),
        note=(
            "(A38) has no sigmoid. The two responses differ by more than 1 here; superposition "
            "of values fails by about 0.5, the sigmoid's value at zero, so only (A38) has a map."
        ),
    ),
    Claim(
        id="MLA-17",
        table=Table.OWN,
        statement=(
            "At its initial value w = 0 the self-augmentation cannot be seen behind a LayerNorm "
            "without weights."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=zero_augmentation_is_invisible,
        place=(
            "BICLab/MetaLA@3353262: metala/modeling_metala.py 66 and 70, for LayerNorm without "
            "weights and w_aug = 0"
        ),
    ),
    Claim(
        id="MLA-18",
        table=Table.CODE,
        statement=(
            "The released layer is not (22): its kernel multiplies the query by d_k^(-1/2), and "
            "the augmentation does not get that factor."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=scaled_query_is_seen,
        place=(
            "BICLab/MetaLA@3353262: metala/modeling_metala.py 141-148; "
            "gpt-neox/metala_qv_selfaug.py 203-210, fused_chunk_gla called without scale"
        ),
        hypotheses=("the kernel's default scale is d_k^{-1/2}",),
        note=(
            "Without augmentation LayerNorm removes the factor up to its ε. With it the two "
            "terms are weighted differently."
        ),
    ),
    Claim(
        id="MLA-34",
        table=Table.PAPER,
        statement="The augmentation of a token moves its own output and no later one.",
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=later_tokens_stay,
        quote=(
            "Second, it only enhances current token's own attention and does not change the "
            "attention of future tokens to the current token (p_ts, s < t), …"
        ),
        place="A3.2",
        hypotheses=("(22): the term is added to the output, not to the state",),
        note="At w_aug = 0 the sigmoid adds 0.5 to every entry, whatever the token.",
    ),
)
