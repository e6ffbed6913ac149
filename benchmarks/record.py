"""What a run is compared with: ratios of the committed run, never seconds."""

from typing import Any

Row = dict[str, Any]
# A ratio may fall to this share of its record; an error of ours may reach this.
LEAST, ERROR = 0.75, 1e-5
# How soon a system hands out memory is its own affair.
FRESH = "dsf, fresh memory"


def shortfalls(rows: list[Row], record: list[Row]) -> dict[str, list[str]]:
    """What is worse than the record allows, in words, by case.

    What only one of the two has passes. Another way of ours to do the same, ``dsf, ...``, gets
    worse as its ratio grows, everything else as it falls.
    """
    known = {(row["case"], row["method"]): row["ratio"] for row in record}
    found: dict[str, list[str]] = {}
    for row in rows:
        case, method, ratio = row["case"], row["method"], row["ratio"]
        before = known.get((case, method))
        if method.startswith("dsf") and not row["error"] <= ERROR:
            said = f"{case}: {method} has an error of {row['error']:.0e}, above {ERROR:.0e}"
            found.setdefault(case, []).append(said)
        if before is not None and not _holds(method, ratio, before):
            said = f"{case}: {method} took {ratio:.2f} times what dsf took, but {before:.2f} in"
            found.setdefault(case, []).append(f"{said} the record")
    return found


def _holds(method: str, ratio: float, before: float) -> bool:
    if method == FRESH:
        return True
    return LEAST * ratio <= before if method.startswith("dsf, ") else ratio >= LEAST * before


def missing(rows: list[Row], record: list[Row]) -> list[str]:
    """What the record has and a run does not: a library that is not installed, for example."""
    made = {(row["case"], row["method"]) for row in rows}
    pairs = [(row["case"], row["method"]) for row in record]
    return [f"{case}: {method}" for case, method in pairs if (case, method) not in made]
