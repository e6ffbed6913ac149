"""The paper's table of models, and the same letters found by perturbation."""

from collections.abc import Mapping
from dataclasses import dataclass

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import held
from dsf.claims.meta_linear.conditions import Draw, classify, drawn, follows_input, through
from dsf.layers import (
    GatedLinearAttention,
    Layer,
    LinearAttention,
    MetaLinearAttention,
    SelectiveStateSpace,
    SoftmaxAttention,
)
from dsf.mixers import HGRN, LRU, RGLRU, RWKV4, S5, DiagonalStateSpace, Mixer, QuasiLSTM, Retention
from dsf.mixers import LinearAttention as LinearMixer


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
        "bounded state, dynamic memory, static approximation and fewest parameters, decided by "
        "perturbation, are met by the models that the paper lists",
        same,
        method="one token's coefficients replaced, maps compared up to the scale of their rows",
        observed=sum(same.values()) / len(same),
        figures=found,
    )


CLAIMS = (
    Claim(
        id="MLA-22",
        statement=(
            "Of the linear mixers only one with queries and a decay that follows the input meets "
            "all of bounded state, dynamic memory, static approximation and fewest parameters."
        ),
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=as_printed,
        note=(
            "Holds as a classification of the paper's models. HGRN2 has the same letters as "
            "MetaLA, and that queries are needed at all is MLA-8, refuted for signed keys."
        ),
    ),
)
