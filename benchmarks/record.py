"""What a run is compared with: ratios of the committed run, never seconds."""

from typing import Any

Row = dict[str, Any]
# A ratio may fall to this share of its record; an error of ours may reach this.
LEAST, ERROR = 0.75, 1e-5


def shortfalls(rows: list[Row], record: list[Row]) -> list[str]:
    """What is worse than the record allows, in words. Cases that only one of the two has pass."""
    known = {(row["case"], row["method"]): row["ratio"] for row in record}
    found = [
        f"{row['case']}: dsf has an error of {row['error']:.0e}, above {ERROR:.0e}"
        for row in rows
        if row["method"].startswith("dsf") and not row["error"] <= ERROR
    ]
    for row in rows:
        before = known.get((row["case"], row["method"]))
        if before is not None and not row["ratio"] >= LEAST * before:
            found.append(
                f"{row['case']}: {row['method']} took {row['ratio']:.2f} times what dsf took, "
                f"but {before:.2f} in the record"
            )
    return found
