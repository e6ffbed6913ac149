"""Associative recall: what was run, and what no small machine can decide."""

from typing import Any

import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import out_of_reach, refuted
from dsf.claims.dynamical_systems.effective_state import HALF, softmax_map
from dsf.measures import hankel_singular_values

ANNOUNCED = 1304
FULL_RUNS = (
    "vocabulary 8192, up to 512 tokens and 64 pairs, width 512, 100,000 sequences for 64 epochs, "
    "four learning rates"
)


def runs_in_the_grids(announced: int = ANNOUNCED) -> Certificate:
    """Count the released grids: tasks, widths, state sizes and learning rates."""
    main = 5 * 4 * 4 * 4 * 4
    lstm = 2 * 3 * 4 * 4
    return refuted(
        f"the released grids hold {announced} runs",
        float(abs(main + lstm - announced)),
        beyond=0.0,
        witness={
            "announced": announced,
            "five models, 4 tasks, 4 widths, 4 state sizes, 4 rates": main,
            "two quasi-LSTMs, 3 tasks, 4 widths, 4 rates": lstm,
            "runs": main + lstm,
        },
        method="counted",
    )


def approaches_softmax() -> Certificate:
    """The least error of n states on drawn softmax maps, in place of trained models."""
    return out_of_reach(
        "linear attention approaches softmax attention on associative recall as n grows",
        f"training at {FULL_RUNS}",
        trend=_least_errors(),
    )


def _least_errors() -> dict[str, Any]:
    weights = softmax_map(4, 1.0)
    values = hankel_singular_values(weights, positions=[HALF - 1])[0]
    squares = values.square().flip(0).cumsum(0).flip(0)
    states = torch.tensor([4, 8, 16, 32])
    return {
        "states": states.tolist(),
        "least relative error of n states on one block": (
            (squares[states] / squares[0]).sqrt().tolist()
        ),
    }


def ranking() -> Certificate:
    """Needs every model trained at full size; nothing smaller orders them reliably."""
    return out_of_reach(
        "on associative recall softmax attention is best, the state-space duality close and "
        "normalised attention between linear and softmax attention",
        f"training every model at {FULL_RUNS}",
    )


CLAIMS = (
    Claim(
        id="DSF-10",
        statement="Linear attention approaches softmax attention on associative recall as n grows.",
        standing=Standing.SECOND_HAND,
        expected=Verdict.UNKNOWN,
        check=approaches_softmax,
        note=(
            "The trend given is a stand-in: the least error of any system of n states on a drawn "
            "softmax map falls with n. experiments/recall trains a reduced task."
        ),
    ),
    Claim(
        id="DSF-26",
        statement="The comparison on associative recall consists of 1304 runs.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=runs_in_the_grids,
        note="The released grids give 5·256 + 2·48 = 1376.",
    ),
    Claim(
        id="DSF-27",
        statement=(
            "On associative recall softmax attention is best, state-space duality close, "
            "normalised attention between linear and softmax attention with exp the best "
            "normaliser, and the quasi-LSTM's variant better on long sequences."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.UNKNOWN,
        check=ranking,
        note=(
            "experiments/recall trains a reduced task, where runs that do not leave the plateau "
            "of guessing among the shown values decide the order as much as the state does."
        ),
    ),
)
