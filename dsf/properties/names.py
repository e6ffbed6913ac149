"""The properties that are decided of every layer, and the files of a run; needs no torch."""

import os
from collections.abc import Sequence
from pathlib import Path

MANIFEST, UNFINISHED = "manifest.json", "unfinished.json"
"""Either makes a folder that of a run."""
OWN_NAMES = ("units", "metrics.csv", "metrics.json", "verdicts.csv", "verdicts.json")
MAX_MANIFEST_BYTES = 64 << 20

IF_NOT = {
    "causal": "Some tokens also read later ones, as in every encoder.",
    "nonnegative": "Some weights subtract, as linear attention, state-space models and delta rules "
    "can; softmax attention cannot.",
    "sums_to_one": "Rows are not averages; only attention with a normaliser makes them so.",
    "injective": "Two different queries share a row, so the head cannot tell them apart.",
    "margin": "The keys are close to linear dependence.",
    "nonexpansive": "Some transition makes a state longer.",
    "forgets": "The decays alone leave more than half of a state over this sequence; what else "
    "erases, as a delta rule does, is not counted.",
}
"""What a refutation of each property means; it is a fact about the layer and no failure."""


def check_not_foreign(
    folder: Path,
    where: str,
    what: str = "run",
    names: Sequence[str] = OWN_NAMES,
    manifests: Sequence[str] = (MANIFEST, UNFINISHED),
) -> None:
    """Raise ValueError if the folder has what no run, or job, wrote under its names."""
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not any(os.path.lexists(folder / name) for name in manifests):
        raise ValueError(
            f"{where}: has {', '.join(there)}, but no {manifests[0]}, so no {what} wrote them. "
            "Give another folder."
        )
