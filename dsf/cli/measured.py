"""A file of prompts becomes a job, and its summary a table."""

from dataclasses import dataclass
from pathlib import Path

from dsf.cli.answer import Answer
from dsf.cli.job_arguments import prompt_lines
from dsf.cli.loading_notes import with_notes
from dsf.cli.progress import progress
from dsf.cli.prompt import parsed
from dsf.cli.run_model import tokenised
from dsf.cli.terminal import print_table
from dsf.inspection.choice import parsed as parsed_choice
from dsf.inspection.results.table import Table
from dsf.jobs import cluster, in_process, measure_prompts, notes, processes
from dsf.loading import read_model_tokenizer

MOST_ROWS = 60


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the command was asked to measure.

    Attributes:
        layers, heads: which are looked at, as a person types them; None for all.
    """

    model: str
    prompts: Path
    out: Path
    quantities: tuple[str, ...]
    batch: int
    layerwise: bool
    layers: str | None
    heads: str | None
    tolerance: float | None
    threads: int


def measure(work: Work, *, ids: bool, workers: int, slurm: Path | None, watched: bool) -> Answer:
    """Do what is missing of the job, and show the summary.

    Raises:
        ValueError: if the file has no prompt.
    """
    executor = in_process if workers == 1 else processes(workers)
    with progress(f"prompts of {work.prompts}", shown=watched) as told:
        table = measure_prompts(
            work.model,
            _prompts(work, ids),
            work.out,
            quantities=work.quantities or None,
            batch=work.batch,
            layerwise=work.layerwise,
            tolerance=work.tolerance,
            layers=None if work.layers is None else parsed_choice(work.layers),
            heads=None if work.heads is None else parsed_choice(work.heads),
            threads=work.threads,
            executor=executor if slurm is None else cluster(slurm, cluster="slurm"),
            progress=lambda done, every: told(done / every),
        )
    facts = {"folder": str(work.out), "summary": table.to_json()}
    return with_notes(Answer(facts, lambda: _show(table, work.out)), notes(work.out))


def _prompts(work: Work, ids: bool) -> list[list[int]]:
    written = [line for _, line in prompt_lines(work.prompts)]
    if ids:
        return [parsed(line) for line in written]
    tokenizer = read_model_tokenizer(work.model, texts=written)
    return [tokenised(line, tokenizer, work.model) for line in written]


def _show(table: Table, folder: Path) -> None:
    heads = ("layer", "head", "quantity", "prompts", "mean", "deviation", "smallest", "largest")
    rows = [
        (
            record["layer"],
            str(record.get("head", record.get("channel", ""))),
            record["quantity"],
            str(record["count"]),
            *(f"{record[name]:.4g}" for name in heads[4:]),
        )
        for record in table[:MOST_ROWS]
    ]
    print_table(heads, rows)
    left = len(table) - len(rows)
    for note in dict.fromkeys(
        f"{record['quantity']} {record['note']}" for record in table if "note" in record
    ):
        print(note)
    print(f"{folder}/summary.csv has all {len(table)} rows" + (f", {left} more" if left else ""))
