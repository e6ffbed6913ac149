"""How many states each approximation takes for a given error, as tables in Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dsf.runtime.files import replace_file

WITHIN = (0.1, 0.01)
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
KINDS = {
    "at_least": "any system, at least",
    "reduced": "reduced system",
    "series": "series",
    "random_features": "random features",
}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a group; each cell the states for an error of 10 % and of 1 %."""
    heads = ["heads", "tokens", *KINDS.values()]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for name, group in found.items():
        cells = [" / ".join(states_for(group[kind], within) for within in WITHIN) for kind in KINDS]
        lines.append(_line([name, str(group["tokens"]), *cells]))
    return "\n".join(lines)


def pair_table(by_pairs: Mapping[int, Mapping[str, Sequence[Any]]]) -> str:
    """Least errors around as many states as there are pairs, in the median over heads."""
    heads = ["pairs P in the prompt", "P - 1 states", "P states", "P + 1 states"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for pairs, curve in by_pairs.items():
        errors = dict(zip(curve["states"], curve["errors"], strict=True))
        cells = [f"{median(errors[pairs + more]):.3f}" for more in (-1, 0, 1)]
        lines.append(_line([str(pairs), *cells]))
    return "\n".join(lines)


def states_for(curve: Mapping[str, Sequence[Any]], within: float) -> str:
    """The fewest states whose error, in the median over heads, is at most ``within``.

    ``> n`` if none of those tried is that close.
    """
    close = [
        states
        for states, errors in zip(curve["states"], curve["errors"], strict=True)
        if median(errors) <= within
    ]
    return f"{min(close):,}" if close else f"> {max(curve['states']):,}"


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two marks of ``page``."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    whole = f"{before}{BEGIN}{text}\n{END}{after}"
    replace_file(page, lambda draft: draft.write_text(whole, encoding="utf-8"))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
