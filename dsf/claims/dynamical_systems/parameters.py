"""The trainable layers: how many parameters they have, and where their step sizes start."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, held
from dsf.layers import (
    Layer,
    LinearAttention,
    NormalisedAttention,
    QuasiLSTM,
    SelectiveStateSpace,
    SoftmaxAttention,
    StateSpaceDuality,
    as_executed,
)

SIZES = ((64, 32), (512, 128))
COUNTS = {
    "softmax attention": (12480, 656640),
    "linear attention": (12480, 656640),
    "normalised attention": (12545, 657153),
    "S6": (10880, 492544),
    "state-space duality": (8449, 395265),
    "quasi-LSTM, S6 transition": (74753, 4726785),
}
"""At the two sizes, one head."""

Formula = Callable[[int, int], int]
FORMULAS: dict[str, Formula] = {
    "softmax attention": lambda d, n: 2 * d * d + 2 * d * n + 2 * d + 2 * n,
    "linear attention": lambda d, n: 2 * d * d + 2 * d * n + 2 * d + 2 * n,
    "normalised attention": lambda d, n: 2 * d * d + 2 * d * n + 2 * d + 2 * n + d + 1,
    "S6": lambda d, n: d * d + 2 * d * math.ceil(d / 16) + 3 * d * n + 2 * d,
    "state-space duality": lambda d, n: d * d + 2 * d * n + 4 * d + 1,
    "quasi-LSTM, S6 transition": lambda d, _: 18 * d * d + 16 * d + 1,
}
ROUNDING = 1e-6
LOWEST, HIGHEST = 1e-3, 0.1


def parameter_counts(formulas: Mapping[str, Formula] = FORMULAS) -> Certificate:
    """Build every layer at both sizes and count."""
    built = {name: tuple(_counted(name, *size) for size in SIZES) for name in COUNTS}
    told = {name: tuple(formula(*size) for size in SIZES) for name, formula in formulas.items()}
    return argued(
        "the layers have the parameters their formulas say, at (d, n) = "
        + " and ".join(map(str, SIZES)),
        "counting is exact",
        {name: built[name] == told[name] == COUNTS[name] for name in COUNTS},
        method="layers built and counted, one head",
        figures={name: list(counts) for name, counts in built.items()},
    )


def _counted(name: str, d: int, n: int) -> int:
    with torch.random.fork_rng(devices=[]):
        layer = _built(name, d, n)
    return sum(parameter.numel() for parameter in layer.parameters())


def _built(name: str, d: int, n: int) -> Layer:
    match name:
        case "softmax attention":
            return SoftmaxAttention(d, key_size=n)
        case "linear attention":
            return LinearAttention(d, key_size=n)
        case "normalised attention":
            return NormalisedAttention(d, key_size=n)
        case "S6":
            return SelectiveStateSpace(d, state_size=n)
        case "state-space duality":
            return StateSpaceDuality(d, state_size=n)
        case _:
            return QuasiLSTM(d, transition="reversed")


def first_steps(executed: Callable[[nn.Module], None] = as_executed) -> Certificate:
    """S6 on an input of zeros, initialised as intended and as executed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layer = SelectiveStateSpace(64, state_size=8)
        intended = _steps(layer)
        executed(layer)
        begun = _steps(layer)
        decay = layer.mixer(torch.zeros(1, 1, 64)).system().A.dense().diagonal(dim1=-2, dim2=-1)
    halves = 0.5 ** torch.arange(1.0, 9.0)
    off = float((begun - math.log(2)).abs().max())
    apart = float((decay - halves).abs().max())
    return held(
        "as executed S6 starts with the step log 2 and the decays 2^-s, as intended with steps "
        "between 0.001 and 0.1",
        {
            "as executed the step is log 2": off < ROUNDING,
            "as executed state s decays by 2^-s": apart < ROUNDING,
            "as intended no step is below 0.001": float(intended.min()) >= LOWEST * (1 - ROUNDING),
            "as intended no step is above 0.1": float(intended.max()) <= HIGHEST * (1 + ROUNDING),
        },
        method="64 channels, 8 states, an input of zeros, seed 0, float32",
        observed=float(begun.mean()),
        figures={
            "intended steps from, to": [float(intended.min()), float(intended.max())],
            "executed steps from, to": [float(begun.min()), float(begun.max())],
        },
    )


def _steps(layer: SelectiveStateSpace) -> torch.Tensor:
    return layer.mixer(torch.zeros(1, 1, 64)).step


CLAIMS = (
    Claim(
        id="DSF-24",
        table=Table.CODE,
        statement=(
            "In the released code S6 starts with the step log 2 and hence A_s = 2^{-s}; the step "
            "that its layer sets lies in [0.001, 0.1]."
        ),
        standing=Standing.CODE,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=first_steps,
        place=(
            "IntelligentControlSystems/dsf-mqar@7c5aff8: zoology/model.py 79-82 and 184 against "
            "zoology/mixers/mamba.py 84-95"
        ),
        note=(
            "The model resets every bias to zero after the layer has set that of its step: the "
            "flag _no_reinit is set, but model.py never reads it. S6 starts with the fastest "
            "forgetting."
        ),
    ),
    Claim(
        id="DSF-25",
        table=Table.OWN,
        statement=(
            "The layers have 2d² + 2dn + 2d + 2n parameters (softmax and linear attention), d + "
            "1 more (normalised), d² + 2dr + 3dn + 2d (S6, r = ⌈d/16⌉), d² + 2dn + 4d + 1 "
            "(state-space duality) and 18d² + 16d + 1 (quasi-LSTM)."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=parameter_counts,
    ),
)
