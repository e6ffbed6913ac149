"""The weights that Figure 1 prints, from its arrows."""

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, measured
from dsf.claims.in_line.figure_one import (
    KEYS,
    PANELS,
    SOFTMAX_SCALE,
    Panel,
    in_line_weights,
    largest_differences,
    softmax_weights,
)

PRINTED_TO = 0.01


def weights_follow_from_arrows(panel: Panel = PANELS["a"]) -> Certificate:
    """The largest distance of a weight of panel (a) from its printed number."""
    return measured(
        "the weights of Figure 1, panel (a), follow from its arrows",
        max(largest_differences(panel).values()),
        within=PRINTED_TO,
        method="digitised arrows, softmax scale 2^-1/2, InLine factor 2^-1/2 / 4",
    )


def figure_uses_the_factors(scale: float = SOFTMAX_SCALE) -> Certificate:
    """Weights of panel (a) with ``scale`` on every score, and with scale 1, beside the printed."""
    off = _distances(scale, scale / len(KEYS))
    bare = _distances(1.0, 1.0)
    return held(
        "Figure 1, panel (a), has d^-1/2 on the scores of softmax attention and d^-1/2 / N on "
        "those of InLine attention",
        {
            "with the factors the weights are the printed ones": max(off.values()) <= PRINTED_TO,
            "without they are not": min(bare.values()) > PRINTED_TO,
        },
        method=f"scale {scale:.3g} and 1 on the scores of the digitised arrows of panel (a)",
        observed=max(off.values()),
        figures={
            "distance from the printed weights with the factors": off,
            "distance without": bare,
        },
    )


def _distances(softmax: float, in_line: float) -> dict[str, float]:
    panel = PANELS["a"]
    ours = {
        "softmax": softmax_weights(panel, scale=softmax),
        "InLine": in_line_weights(panel, scale=in_line),
    }
    printed = {"softmax": panel.softmax, "InLine": panel.in_line}
    return {
        name: (rows - rows.new_tensor(printed[name])).abs().max().item()
        for name, rows in ours.items()
    }


CLAIMS = (
    Claim(
        id="INL-14",
        table=Table.PAPER,
        statement="The weights of Figure 1, panel (a), follow from its arrows.",
        standing=Standing.SECOND_HAND,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=weights_follow_from_arrows,
        quote=(
            "when different kernel functions (ReLU and ReLU(A·+b)) are used, linear attention is "
            "not injective"
        ),
        place="caption of Figure 1, machine-written; the weights are printed in the figure",
        hypotheses=("the arrows are digitised",),
        note=(
            "With d^(-1/2) on the scores of softmax attention and d^(-1/2)/N for InLine "
            "attention, the factors that the authors say they left out of eq. (5) (INL-15). "
            "Panel (b) has no row: its feature map is not printed, and six fitted numbers "
            "reproduce it."
        ),
    ),
    Claim(
        id="INL-15",
        table=Table.OWN,
        statement=(
            "Figure 1, panel (a), is drawn with the factors d^(-1/2) for softmax attention and "
            "d^(-1/2)/N for InLine attention."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=figure_uses_the_factors,
        quote="Therefore, we omit it in eq. 5 of the paper for simplicity.",
        place=(
            "comment in LeapLabTHU/InLine@e463a6f, models/inline_swin.py 264; the same in issue "
            "3, 11 December 2024"
        ),
        note=(
            "No contradiction: the authors say that the factor is left out of the printed "
            "formula. Without the factors softmax misses a printed weight by 0.09 and InLine by "
            "0.79."
        ),
    ),
)
