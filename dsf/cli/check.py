"""``dsf check``: the properties of every layer with verdicts, or an earlier run's evidence."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsf.cli.command import FAILED, LIMIT, WELL, Answer, Run, Work
from dsf.cli.early_checks import check_call, check_folder, check_free, check_not_of_another, is_run
from dsf.cli.options import Inspecting, Prompt, check_known, fingerprint
from dsf.cli.terminal import print_table, progress
from dsf.properties.names import IF_NOT, MANIFEST, check_not_foreign
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.inspection import Inspection
    from dsf.inspection.results.table import Table
    from dsf.properties.run_folder import Pages

FOLDER = Path("dsf-run")


def check(
    model: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, a GGUF file, a hub id, or a run.")
    ],
    *,
    prompt: Prompt,
    out: Annotated[Path, "Folder of the run."] = FOLDER,
    require: Annotated[
        list[str] | None, "A property that must hold; exit code 1 if refuted or never decided."
    ] = None,
    root: Annotated[str | None, "The root hash that the checked run must have."] = None,
    options: Inspecting,
) -> Work:
    """Decide every property of every layer of MODEL on one input: PROVED, REFUTED or UNKNOWN.

    The run folder holds the evidence; "dsf check RUN" has the checker decide it again, names every
    file that is not as it was written, and prints the root hash. A run that was interrupted
    continues where it stopped.
    """
    if is_run(Path(model)):
        if not prompt.is_missing or require or out != FOLDER or options != Inspecting():
            raise ValueError(
                "MODEL is the folder of a run, which is checked as it was written. Leave out all "
                "options but --root, or give the folder of the model."
            )
        if root is not None and not re.fullmatch(r"(sha256 )?[0-9a-fA-F]{64}", root):
            raise ValueError(f"--root: expected a hash of 64 hexadecimal digits, got {root!r}.")
        return lambda _: check_again(Path(model), root)
    if root is not None:
        raise ValueError(f"--root is for the folder of a run, but {model} is none.")
    check_known("--require", require or (), IF_NOT)
    if prompt.is_missing and model.strip():
        raise ValueError(
            f"{model} is not a folder of a run to be checked again, and a model is checked on an "
            "input. Give the folder that dsf check wrote, or a model and exactly one of --text, "
            "--ids and --file."
        )
    check_call(model, prompt, options)
    check_folder(out, files=["report.html"], models=[model])
    check_not_foreign(out, f"--out {str(out)!r}")
    check_free(out)
    check_not_of_another(out, {} if prompt.ids is None else {"input": fingerprint(prompt.ids)})

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import inspect_checkpoint, notes_of
        from dsf.properties.run_folder import hash_of, source_of
        from dsf.report import show

        inspection = inspect_checkpoint(model, prompt, run, options)
        check_not_of_another(out, source_of(inspection))
        page = out / "report.html"
        table = decide(
            inspection,
            out,
            pages=lambda verdicts: [Path(show(inspection, page, verdicts=verdicts))],
        )
        code, reasons = judged(table, require or ())
        root_hash = hash_of(out / MANIFEST)

        def print_answer() -> None:
            _print_counts(table)
            print("\n".join([*meanings(table), counted(table), *reasons]))
            print(f"{page}; evidence in {out}, to be checked again with: dsf check {out}")
            print(f"root hash of the run: sha256 {root_hash}")

        facts = {"model": escaped(inspection.model), "run": str(out), "verdicts": table.to_json()}
        facts.update(root=root_hash, required=reasons)
        return Answer(facts=facts, show=print_answer, code=code, notes=notes_of(inspection))

    return work


def decide(inspection: "Inspection", folder: Path, *, pages: "Pages | None" = None) -> "Table":
    """Decide every property of every layer, with the evidence in a folder."""
    from dsf.properties.run_folder import checked_run

    report = progress("deciding")
    return checked_run(
        inspection, folder, progress=lambda done, every: report(done / every), pages=pages
    )


def check_again(folder: Path, root: str | None = None) -> Answer:
    from dsf.properties.run_folder import check_run, checker_hash

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
        sound = "THE RUN IS NOT ACCEPTED"
        if found.is_sound and found.is_known:
            sound = "the run is the one with the given root hash"
        elif found.is_sound:
            sound = "the run is consistent in itself; --root shows that it is the one you mean"
        print(f"{sound}; {len(found.faults)} faults")

    facts = {
        "run": str(folder),
        "root": found.root,
        "accepted": dict(found.accepted),
        "undecided": dict(found.undecided),
        "faults": found.faults,
        "checker": digest,
    }
    return Answer(facts=facts, show=show, code=WELL if found.is_sound else FAILED)


def judged(table: "Table", required: Sequence[str]) -> tuple[int, list[str]]:
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


def meanings(table: "Table") -> list[str]:
    """The claim behind every property in the table, and what it means if it does not hold."""
    from dsf.properties.decided import stated, verdict_counts

    lines = ["On this input, for every head of a layer:"]
    counts = [count for count in verdict_counts(table) if count.proved or count.refuted]
    for name in dict.fromkeys(count.property for count in counts):
        of = [count for count in counts if count.property == name]
        means = f" REFUTED: {IF_NOT[name]}" if any(count.refuted for count in of) else ""
        lines.append(f"  {name}: {stated(table.where(property=name))}.{means}")
    return lines


def counted(table: "Table") -> str:
    """How often each verdict occurs, such as ``46 PROVED, 40 REFUTED``."""
    counts = Counter(record["verdict"] for record in table)
    return ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


def _print_counts(table: "Table") -> None:
    from dsf.certificates import Verdict
    from dsf.properties.decided import verdict_counts

    columns = (Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN, Verdict.NOT_APPLICABLE)
    heads = ("layer", "property", *(verdict.value for verdict in columns), "worst observed")
    rows = []
    for count in verdict_counts(table):
        if not count.proved and not count.refuted and not count.unknown:
            continue  # a property that this mixer does not have is counted below the table
        numbers = (count.proved, count.refuted, count.unknown, count.not_applicable)
        worst = "" if count.observed is None else f"{count.observed:.3g}"
        said = (str(number or "") for number in numbers)
        rows.append((count.layer, count.property, *said, worst))
    print_table(heads, rows)
