"""``dsf measure``: one model on many prompts, as a job that resumes."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsf.cli import early_checks as early
from dsf.cli import options as shared
from dsf.cli.command import Answer, Run, Work
from dsf.cli.terminal import progress
from dsf.inspection.results.quantities import MEASURES
from dsf.properties.names import check_not_foreign

if TYPE_CHECKING:
    from dsf.inspection.results.table import Table

MAX_WORKERS = 1024
"""More processes than any machine has cores; the system ends what starts far more."""


def measure(
    model: shared.Checkpoint,
    prompts: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="A UTF-8 file, one prompt a line: text, or with --ids numbers.",
        ),
    ],
    *,
    out: Annotated[Path, "Folder of this job alone."] = Path("dsf-job"),
    ids: Annotated[bool, 'Lines are token numbers, such as "1 2 3".'] = False,
    quantity: Annotated[
        list[str] | None,
        "What to measure; again for more. All by default, but for middle_hankel_rank of "
        "maps of more than 1,024 tokens.",
    ] = None,
    batch: Annotated[
        int, shared.whole_number("Neighbours of one length in one forward pass.", least=1)
    ] = 1,
    workers: Annotated[
        int, shared.whole_number("Processes of this machine.", least=1, most=MAX_WORKERS)
    ] = 1,
    slurm: Annotated[Path | None, "Run as Slurm jobs; the folder for their logs."] = None,
    layerwise: shared.Layerwise = False,
    layers: shared.Layers = None,
    heads: shared.Heads = None,
    tolerance: shared.Tolerance = None,
    loading: shared.Loading,
) -> Work:
    """Measure every layer and head of MODEL on every line of PROMPTS.

    Finished units are files: the same command continues where it was stopped. Every process
    computes on one thread unless --threads gives it more, so that several do not wait for each
    other.
    """
    shared.check_known("--quantity", quantity or (), MEASURES)
    shared.exclude_each_other(workers=workers > 1, slurm=slurm)
    for name in ("dtype", "device"):
        shared.exclude_each_other(layerwise=layerwise, **{name: getattr(loading, name)})
    package = "joblib" if workers > 1 else "submitit" if slurm is not None else ""
    if package and find_spec(package) is None:
        raise ValueError(
            f'this needs {package}, which is not installed: pip install "dsf-toolkit[scale]", or '
            "leave --workers and --slurm out."
        )
    facts = early.check_model(model, offline=loading.offline, revision=loading.revision)
    lines = _prompts(prompts, facts, by_number=ids)
    early.check_folder(out, models=[model])
    check_not_foreign(out, f"--out {str(out)!r}", "job", ("units", "summary.csv"), ("job.json",))
    early.check_free(out)
    if slurm is not None:
        early.check_folder(slurm, option="--slurm")

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import tokenised
        from dsf.jobs import cluster, in_process, measure_prompts, notes, processes
        from dsf.loading import read_model_tokenizer

        if ids:
            numbers = [list(shared.token_ids(line)) for line in lines]
        else:
            tokenizer = read_model_tokenizer(
                model, revision=loading.revision, offline=loading.offline, texts=lines
            )
            numbers = [tokenised(line, tokenizer, model) for line in lines]
        executor = in_process if workers == 1 else processes(workers)
        report = progress(f"prompts of {prompts}")
        table = measure_prompts(
            model,
            numbers,
            out,
            quantities=tuple(quantity or ()) or None,
            batch=batch,
            layerwise=layerwise,
            tolerance=tolerance,
            layers=layers,
            heads=heads,
            dtype=None if loading.dtype is None else str(loading.dtype),
            device=loading.device,
            revision=loading.revision,
            threads=run.asked or 1,
            executor=executor if slurm is None else cluster(slurm, cluster="slurm"),
            progress=lambda done, every: report(done / every),
        )
        return Answer(
            facts={"folder": str(out), "summary": table.to_json()},
            show=lambda: _show(table, out),
            notes={"": " ".join(notes(out))},
        )

    return work


def _prompts(path: Path, facts: early.ModelFacts, *, by_number: bool) -> list[str]:
    """The lines of a file that hold a prompt, checked against the model."""
    where = f"PROMPTS {str(path)!r}"
    lines = shared.read_text("PROMPTS", path).splitlines()
    found = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    if not found:
        raise ValueError(f"{where}: expected one prompt a line, got none.")
    if not by_number and facts.tokenizer is False:
        reason = early.without_tokenizer(facts.name).partition(" Give")[0]
        raise ValueError(f"{reason} Write the numbers of tokens into the file, and add --ids.")
    for number, line in found.items() if by_number else ():
        try:
            ids = shared.token_ids(line)
            early.check_numbers(ids, facts.vocabulary, facts.name)
            early.check_length(len(ids), facts.positions, facts.name)
        except (typer.BadParameter, ValueError) as error:
            words = getattr(error, "message", str(error))
            raise ValueError(f"{where}, line {number}: {words}") from None
    return list(found.values())


def _show(table: "Table", folder: Path) -> None:
    print(table)
    notes = (f"{record['quantity']} {record['note']}" for record in table if "note" in record)
    for note in dict.fromkeys(notes):
        print(note)
    print(f"{folder}/summary.csv has all {len(table)} rows")
