"""A few measures of every drawn map, in words; left out where they would take long."""

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate import attention_map
from dsf.inspection.results.measurements import QUANTITIES, measured
from dsf.report.selection import Selection

MOST_CELLS = 2**25
LONGEST_FOR_RANKS = 256
RANK = "middle_hankel_rank"
WORDS = {
    "negative_share": "negative share of the weight",
    "sink_mass": "share of later tokens' weight on the first",
    "mean_distance": "mean distance read, tokens",
    "half_life": "half of the weight lies within, tokens",
    "mean_effective_tokens": "tokens that a row reads, effectively",
    "absolute_gain": "largest absolute row sum",
    RANK: "rank of what passes the middle token",
}


@dataclass(frozen=True)
class Drawn:
    """The maps of one layer that are drawn, as something to measure."""

    system: Operator
    name: str = ""
    family: str = ""
    axes: tuple[str, ...] = ("map",)

    def map(self) -> Shaped[Tensor, "*batch rows columns"]:
        """All of them written out."""
        return attention_map(self.system)


def measures_of(drawn: Selection, *, finite: bool) -> list[list[tuple[str, float | None]]]:
    """For every drawn map what was measured, as (words, value); None for what is not a number.

    Args:
        finite: whether every weight is; ranks have no meaning otherwise.
    """
    steps, maps = drawn.system.steps, len(drawn.labels)
    if maps * steps**2 > MOST_CELLS:
        return [[] for _ in range(maps)]
    with_ranks = finite and steps <= LONGEST_FOR_RANKS
    wanted = {name: QUANTITIES[name] for name in WORDS if with_ranks or name != RANK}
    found: list[list[tuple[str, float | None]]] = [[] for _ in range(maps)]
    for record in measured([Drawn(drawn.system)], wanted).to_json():
        value = record["value"]
        words = WORDS[record["quantity"]]
        found[record.get("map", 0)].append((words, None if value is None else float(value)))
    return found
