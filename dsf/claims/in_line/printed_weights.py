"""The 96 weights that Figure 1 prints, from its arrows."""

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import measured, refuted
from dsf.claims.in_line.figure_one import (
    PANELS,
    SOFTMAX_SCALE,
    Panel,
    in_line_weights,
    largest_differences,
    softmax_weights,
)

PRINTED_TO = 0.01


def weights_follow_from_arrows(panels: dict[str, Panel] = PANELS) -> Certificate:
    """The largest distance of a weight from its printed number, over both panels."""
    return measured(
        "all 96 weights of Figure 1 follow from its arrows",
        max(max(largest_differences(panel).values()) for panel in panels.values()),
        within=PRINTED_TO,
        method="digitised arrows, softmax scale 2^-1/2, InLine factor 2^-1/2 / 4; the feature map "
        "of panel (b) fitted",
    )


def figure_uses_scale_one(scale: float = 1.0) -> Certificate:
    """Weights of panel (a) with ``scale`` on every score against the printed ones."""
    panel = PANELS["a"]
    ours = {"softmax": softmax_weights(panel, scale=scale)}
    ours["InLine"] = in_line_weights(panel, scale=scale if scale == 1 else scale / 4)
    printed = {"softmax": panel.softmax, "InLine": panel.in_line}
    off = {
        name: (rows - rows.new_tensor(printed[name])).abs().max().item()
        for name, rows in ours.items()
    }
    return refuted(
        "Figure 1 uses the formula as printed, with scale 1",
        min(off.values()),
        beyond=PRINTED_TO,
        witness={"panel": "a", "largest distance from the printed weights": off},
        method=f"scale {scale:g} on the scores of panel (a); {SOFTMAX_SCALE:.3g} gives the figure",
    )


CLAIMS = (
    Claim(
        id="INL-14",
        statement="All 96 weights of Figure 1 follow from its arrows.",
        standing=Standing.STATED,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=weights_follow_from_arrows,
        note="The arrows were digitised, and the feature map of panel (b) is not printed: it was "
        "fitted and is not the only one.",
    ),
    Claim(
        id="INL-15",
        statement="The weights of Figure 1 are those of the printed formulas, with scale 1.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=figure_uses_scale_one,
        note="With scale 1 softmax misses a printed weight by 0.09 and InLine by 0.79; the figure "
        "has d^(-1/2) on the scores and d^(-1/2) / N for InLine.",
    ),
)
