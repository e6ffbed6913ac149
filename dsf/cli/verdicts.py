"""Verdicts for a terminal and for JSON."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dsf.certificates import Verdict, checker
from dsf.cli.answer import FAILED, LIMIT, WELL, Answer
from dsf.cli.results import decide
from dsf.cli.terminal import print_table
from dsf.inspection import Inspection
from dsf.inspection.results.table import Table
from dsf.properties.decided import PROPERTIES, verdict_counts
from dsf.report import write_report
from dsf.report.escaping import escaped

DECIDED = (Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN)
HEADS = ("layer", "property", *(verdict.value for verdict in DECIDED), "worst observed")


def is_run(path: Path) -> bool:
    """Whether a folder is one that ``checked_run`` wrote."""
    return (path / "manifest.json").is_file() and (path / "units").is_dir()


def check_model(
    inspection: Inspection, folder: Path, required: Sequence[str], *, watched: bool
) -> Answer:
    """Decide everything, and fail where a required property is refuted.

    Raises:
        ValueError: if a required property is not known.
    """
    unknown = sorted(set(required) - set(PROPERTIES))
    if unknown:
        raise ValueError(
            f"--require must name properties, but {', '.join(unknown)} came; known are "
            f"{', '.join(PROPERTIES)}."
        )
    table = decide(inspection, folder, watched=watched)
    code = _code(table, required)
    page = write_report(inspection, folder / "report.html", verdicts=table)

    def show() -> None:
        print_table(HEADS, _rows(table))
        print(counted(table))
        print(f"{page}; evidence in {folder}, to be checked again with: dsf check {folder}")

    facts = {"model": escaped(inspection.model), "run": str(folder), "verdicts": table.to_json()}
    return Answer(facts, show, code)


def counted(table: Table) -> str:
    """How often each verdict came, such as ``46 PROVED, 40 REFUTED``."""
    counts = Counter(record["verdict"] for record in table)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


def check_again(folder: Path) -> Answer:
    """Run the checker on every certificate of a run."""
    files = sorted(folder.glob("units/*/certificates/*.json"))
    rejected = {}
    for file in files:
        try:
            checker.check(file)
        except checker.Rejected as error:
            rejected[str(file.relative_to(folder))] = str(error)

    def show() -> None:
        for name, reason in rejected.items():
            print(f"REJECTED {name}: {reason}")
        print(f"{len(files) - len(rejected)} of {len(files)} certificates accepted")

    facts = {"run": str(folder), "certificates": len(files), "rejected": rejected}
    return Answer(facts, show, FAILED if rejected or not files else WELL)


def _code(table: Table, required: Sequence[str]) -> int:
    asked = {record["verdict"] for record in table if record["property"] in required}
    if Verdict.REFUTED.value in asked:
        return FAILED
    return LIMIT if Verdict.UNKNOWN.value in asked else WELL


def _rows(table: Table) -> list[tuple[str, ...]]:
    rows = []
    for count in verdict_counts(table):
        counts = (str(count or "") for count in (count.proved, count.refuted, count.unknown))
        worst = "" if count.observed is None else f"{count.observed:.3g}"
        rows.append((count.layer, count.property, *counts, worst))
    return rows
