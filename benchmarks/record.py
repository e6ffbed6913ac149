"""What a run is compared with: ratios of the committed run, never seconds."""

from math import isnan
from statistics import median
from typing import Any

Row = dict[str, Any]
# The ratios of a case may fall to this share of their record; an error of ours may reach this.
LEAST, ERROR = 0.75, 1e-5
# How soon a system hands out memory is its own affair.
FRESH = "dsf, fresh memory"


def row(case: str, method: str, seconds: float, mine: float, error: float) -> Row:
    """What one method took and how far it was off, beside the time of ours."""
    ratio = seconds / mine
    return {"case": case, "method": method, "seconds": seconds, "error": error, "ratio": ratio}


def shortfalls(rows: list[Row], record: list[Row]) -> dict[str, list[str]]:
    """What is worse than the record allows, in words, by case.

    What only one of the two has passes. Of the methods of others and the limit the median counts:
    where ours is slower than it was, all of their ratios fall, and one that falls alone is the
    other's luck. Another way of ours to do the same, ``dsf, ...``, gets worse as its ratio grows,
    by more than ours got quicker beside the others.
    """
    known = {(row["case"], row["method"]): row["ratio"] for row in record}
    found: dict[str, list[str]] = {}
    shares: dict[str, dict[str, float]] = {}
    ways: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        case, method, ratio = row["case"], row["method"], row["ratio"]
        before = known.get((case, method))
        if method.startswith("dsf") and not row["error"] <= ERROR:
            said = f"{case}: {method} has an error of {row['error']:.0e}, above {ERROR:.0e}"
            found.setdefault(case, []).append(said)
        if before is None or method in ("dsf", FRESH):
            continue
        if not method.startswith("dsf, "):
            shares.setdefault(case, {})[method] = ratio / before
        else:
            ways.setdefault(case, []).append((method, ratio, before))
    for case, each in shares.items():
        share = median(each.values())
        if isnan(sum(each.values())) or share < LEAST:
            told = ", ".join(f"{method} {part:.2f}" for method, part in each.items())
            said = f"{case}: the ratios are {share:.2f} of those in the record, in the median"
            found.setdefault(case, []).append(f"{said} ({told})")
    for case, several in ways.items():
        quicker = max(1.0, median(shares.get(case, {"": 1.0}).values()))
        for method, ratio, before in several:
            if not LEAST * ratio <= before * quicker:
                said = f"{case}: {method} took {ratio:.2f} times what dsf took, but {before:.2f} in"
                found.setdefault(case, []).append(f"{said} the record")
    return found


def missing(rows: list[Row], record: list[Row]) -> list[str]:
    """What the record has and a run does not: a library that is not installed, for example."""
    made = {(row["case"], row["method"]) for row in rows}
    pairs = [(row["case"], row["method"]) for row in record]
    return [f"{case}: {method}" for case, method in pairs if (case, method) not in made]
