"""The paper's table of models, and the same letters found by perturbation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, refuted
from dsf.claims.meta_linear.conditions import Draw, classify, drawn, follows_input, through
from dsf.evaluate import attention_map
from dsf.layers import (
    GatedLinearAttention,
    Layer,
    LinearAttention,
    MetaLinearAttention,
    SelectiveStateSpace,
    SoftmaxAttention,
)
from dsf.mixers import (
    HGRN,
    HGRN2,
    LRU,
    RGLRU,
    RWKV4,
    S5,
    DiagonalStateSpace,
    Mixer,
    QuasiLSTM,
    Retention,
)
from dsf.mixers import LinearAttention as LinearMixer
from dsf.mixers import MetaLinearAttention as MetaMixer

ROUNDING = 1e-12


@dataclass(frozen=True)
class Model:
    """A row of the paper's table.

    Attributes:
        draw: the mixer it stands for.
        computed: the fields that follow the input.
        printed: C0 to C3 as the paper has them; where it has nothing, as a dot.
    """

    draw: Draw
    computed: tuple[str, ...]
    printed: str


def _layer(layer: Layer, printed: str) -> Model:
    return Model(through(layer), follows_input(layer), printed)


def _mixer(mixer: type[Mixer], computed: tuple[str, ...], printed: str) -> Model:
    return Model(drawn(mixer), computed, printed)


def table(meta_linear: Layer | None = None) -> Mapping[str, Model]:
    """The rows that a mixer or a layer of the library stands for.

    The form knows the parts of a model that follow the input by name: of RWKV-4 the key, of
    Griffin the decay, since its gate on the input belongs to the value there.
    """
    width = 8
    ours = MetaLinearAttention(width) if meta_linear is None else meta_linear
    return {
        "softmax attention": _layer(SoftmaxAttention(width), "nyy."),
        "Q, K, Λ: RetNet": _mixer(Retention, ("query", "key"), "ynnn"),
        "Q, K, Λ: S4D": _mixer(DiagonalStateSpace, (), "ynnn"),
        "Q, K, Λ_t: GLA": _layer(GatedLinearAttention(width), "yyyn"),
        "Q, K, Λ_t: Mamba": _layer(SelectiveStateSpace(width), "yyyn"),
        "Q, K: linear Transformer": _layer(LinearAttention(width), "ynyn"),
        "K, Λ: RWKV-4": _mixer(RWKV4, ("key",), "ynnn"),
        "K, Λ_t: GLRU": _mixer(QuasiLSTM, ("forget", "input"), "yynn"),
        "Q, Λ": _mixer(Retention, ("query",), "ynnn"),
        "Q, Λ_t: MetaLA": _layer(ours, "yyyy"),
        "Q": _mixer(LinearMixer, ("query",), "ynnn"),
        "K": _mixer(LinearMixer, ("key",), "ynnn"),
        "Λ: LRU": _mixer(LRU, (), "ynnn"),
        "Λ: S5": _mixer(S5, (), "ynnn"),
        "Λ_t: HGRN": _mixer(HGRN, ("decay",), "yynn"),
        "Λ_t: Griffin": _mixer(RGLRU, ("decay",), "yynn"),
    }


def agrees(found: str, printed: str) -> bool:
    """Whether the letters are the printed ones, wherever there is a printed one."""
    return all(b in (a, ".") for a, b in zip(found, printed, strict=True))


def as_printed(meta_linear: Layer | None = None) -> Certificate:
    """Find the letters of every row and compare them with the paper's."""
    models = table(meta_linear)
    found = {name: classify(model.draw, model.computed).letters for name, model in models.items()}
    same = {name: agrees(found[name], model.printed) for name, model in models.items()}
    return held(
        "the letters of the paper's Table 2 follow from which of Q, K and Λ_t a token moves, with "
        "C1 to C3 taken as the paper's rules",
        same,
        method="one token's coefficients replaced, maps compared up to the scale of their rows",
        observed=sum(same.values()) / len(same),
        figures=found,
    )


def hgrn2(mixer: MetaMixer) -> Mixer:
    """HGRN2 with the queries, decays and values of MetaLA."""
    return HGRN2(query=mixer.query, decay=mixer.decay, value=mixer.value)


def none_existing(earlier: Callable[[MetaMixer], Mixer] = hgrn2) -> Certificate:
    """HGRN2, published earlier, against the recurrence that meets all conditions."""
    drawn_mixer = MetaMixer.draw(torch.Generator().manual_seed(0), steps=24)
    ours = replace(drawn_mixer, augmentation=None)
    theirs = earlier(ours)
    apart = float((attention_map(theirs.system()) - attention_map(ours.system())).abs().max())
    return refuted(
        "no linear model that existed meets C1, C2 and C3",
        1.0 if apart <= ROUNDING else 0.0,
        beyond=0.5,
        witness={
            "model": "HGRN2 (arXiv:2404.07904)",
            "recurrence": "S_t = diag(α_t) S_{t-1} + (1 - α_t)ᵀ v_t, o_t = q_t S_t",
            "largest difference of its map from MetaLA's, same queries, decays, values": apart,
            "groups": ["Q", "Λ_t"],
        },
        method="the two mixers of the library on the same numbers",
    )


CLAIMS = (
    Claim(
        id="MLA-22",
        table=Table.PAPER,
        statement="None of the linear models that existed meets all of C1, C2 and C3.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=none_existing,
        quote="Thus, none of the existing linear models meet all C1/C2/C3 conditions.",
        place="Sec. 4, end; Table 2; Abstract",
        hypotheses=(
            "existing at the time",
            "C1 to C3 by the paper's own criteria",
            "C3: fewest parameter groups",
        ),
        stands=(
            "It holds of the models of Table 2 (MLA-41). HGRN2 (first version April 2024) is not "
            "among them; the paper (first version November 2024) cites it as [29] and compares "
            "with it in Table A8."
        ),
        note=(
            "HGRN2 has queries, a decay that follows the input and the key 1 - α: MetaLA's "
            "recurrence before its augmentation. Its authors say so in the README of "
            'OpenNLPLab/HGRN2: "The output gate plays the role of Q, (1 - forget gate) plays '
            'the role of K, and the input state plays the role of V."; the recurrence is the '
            "one of this library's mixer HGRN2."
        ),
    ),
    Claim(
        id="MLA-41",
        table=Table.OWN,
        statement=(
            "The letters of Table 2 follow from which of Q, K and Λ_t a token moves, with C1 to "
            "C3 taken as the paper's rules."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=as_printed,
        note=(
            "That C2 asks for queries is a rule here and no result; MLA-8 shows maps without "
            "them. HGRN2 gets the same letters as MetaLA."
        ),
    ),
)
