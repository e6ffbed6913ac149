"""Verdicts for a terminal and for JSON."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dsf.certificates import Verdict
from dsf.cli.answer import FAILED, LIMIT, WELL, Answer
from dsf.cli.earlier_run import check_not_of_another
from dsf.cli.results import decide
from dsf.cli.terminal import print_table
from dsf.inspection import Inspection
from dsf.inspection.results.table import Table
from dsf.properties.decided import IF_NOT, verdict_counts
from dsf.properties.run_check import check_run
from dsf.properties.run_folder import MANIFEST, checker_hash, hash_of, source_of
from dsf.report import write_report
from dsf.report.escaping import escaped

COLUMNS = (Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN, Verdict.NOT_APPLICABLE)
HEADS = ("layer", "property", *(verdict.value for verdict in COLUMNS), "worst observed")


def check_model(
    inspection: Inspection, folder: Path, required: Sequence[str], *, watched: bool
) -> Answer:
    """Decide everything, and fail where a required property is refuted.

    Raises:
        ValueError: if the folder holds the run of something else.
    """
    check_not_of_another(folder, source_of(inspection))
    page = folder / "report.html"

    def draw(table: Table) -> list[Path]:
        return [Path(write_report(inspection, page, verdicts=table))]

    table = decide(inspection, folder, pages=draw, watched=watched)
    code, reasons = judged(table, required)
    root = root_of(folder)

    def show() -> None:
        print_table(HEADS, _rows(table))
        for line in meanings(table):
            print(line)
        print(counted(table))
        for reason in reasons:
            print(reason)
        print(f"{page}; evidence in {folder}, to be checked again with: dsf check {folder}")
        print(f"root hash of the run: sha256 {root}")

    facts = {"model": escaped(inspection.model), "run": str(folder), "verdicts": table.to_json()}
    facts.update(root=root, required=reasons)
    return Answer(facts, show, code)


def root_of(folder: Path) -> str:
    """The hash of a run's manifest, which holds the hash of every other file."""
    return hash_of(folder / MANIFEST)


def meanings(table: Table) -> list[str]:
    """The claim behind every property in the table, and what it means if it does not hold."""
    lines = ["On this input, for every head of a layer:"]
    counts = verdict_counts(table)
    for name in dict.fromkeys(count.property for count in counts):
        of = [count for count in counts if count.property == name]
        if any(count.proved or count.refuted for count in of):
            claim = next(count.claim for count in of if count.proved or count.refuted)
            means = f" REFUTED: {IF_NOT[name]}" if any(count.refuted for count in of) else ""
            lines.append(f"  {name}: {claim}.{means}")
    return lines


def counted(table: Table) -> str:
    """How often each verdict came, such as ``46 PROVED, 40 REFUTED``."""
    counts = Counter(record["verdict"] for record in table)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


def check_again(folder: Path, root: str | None = None) -> Answer:
    """Run the checker on every certificate of a run, and compare all of its files."""
    found = check_run(folder, root=root)
    digest = checker_hash()

    def show() -> None:
        for name, reason in found.faults.items():
            print(f"{name}: {reason}")
        accepted = ", ".join(f"{n} {verdict}" for verdict, n in sorted(found.accepted.items()))
        others = ", ".join(f"{n} {verdict}" for verdict, n in sorted(found.undecided.items()))
        print(f"accepted by the checker: {accepted or 'nothing'}")
        print(f"without a certificate: {others or 'nothing'}")
        print(f"checked by the installed checker.py: sha256 {digest}")
        print(f"root hash of the run: sha256 {found.root}")
        sound = "the run is as it was written" if found.is_sound else "THE RUN IS NOT ACCEPTED"
        print(f"{sound}; {len(found.faults)} faults")

    facts = {
        "run": str(folder),
        "root": found.root,
        "accepted": dict(found.accepted),
        "undecided": dict(found.undecided),
        "faults": found.faults,
        "checker": digest,
    }
    return Answer(facts, show, WELL if found.is_sound else FAILED)


def judged(table: Table, required: Sequence[str]) -> tuple[int, list[str]]:
    """The exit code that required properties ask for, and why it is not zero."""
    codes, reasons = [WELL], []
    for name in dict.fromkeys(required):
        seen = Counter(record["verdict"] for record in table.where(property=name))
        if seen["REFUTED"]:
            codes.append(FAILED)
            reasons.append(f"--require {name}: refuted {seen['REFUTED']} times")
        elif not seen["PROVED"]:
            codes.append(FAILED)
            reasons.append(f"--require {name}: never decided on this input, so it is not shown")
        elif seen["UNKNOWN"]:
            codes.append(LIMIT)
            reasons.append(f"--require {name}: unknown {seen['UNKNOWN']} times")
    return (FAILED if FAILED in codes else max(codes)), reasons


def _rows(table: Table) -> list[tuple[str, ...]]:
    rows = []
    for count in verdict_counts(table):
        if not count.proved and not count.refuted and not count.unknown:
            continue  # a property that this mixer does not have is counted below the table
        numbers = (count.proved, count.refuted, count.unknown, count.not_applicable)
        counts = (str(number or "") for number in numbers)
        worst = "" if count.observed is None else f"{count.observed:.3g}"
        rows.append((count.layer, count.property, *counts, worst))
    return rows
