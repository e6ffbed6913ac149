"""The findings as a table in Markdown, next to what the paper prints."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.page import table
from papers.meta_linear.experiments.conditions.printed import PRINTED, agrees

HEADS = (
    "mixer",
    "layer",
    "computed from the input",
    "acts as",
    "C0 C1 C2 C3",
    "paper: keeps",
    "paper",
)


def findings(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for every mixer; ``≠`` behind letters of the paper that are not the ones found."""
    return table(HEADS, (_cells(name, row) for name, row in found.items()))


def _cells(name: str, row: Mapping[str, Any]) -> list[str]:
    printed = PRINTED.get(name)
    star = " *" if row["elsewhere"] else ""
    theirs = ["", ""]
    if printed is not None:
        mark = "" if agrees(row["letters"], printed.letters) else " ≠"
        theirs = [printed.groups, _spaced(printed.letters) + mark]
    computed = ", ".join(row["computed"]) or "nothing"
    ours = [row["groups"] + star, _spaced(row["letters"])]
    return [name, "yes" if row["layer"] else "", computed, *ours, *theirs]


def disagreements(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The mixers whose letters are not those of the paper."""
    for name, printed in PRINTED.items():
        if not agrees(found[name]["letters"], printed.letters):
            yield name


def _spaced(letters: str) -> str:
    return " ".join(letters)
