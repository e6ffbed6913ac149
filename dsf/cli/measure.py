"""``dsf measure``: one model on many prompts, as a job that resumes."""

from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.job_arguments import check_installed, check_job_folder, check_prompts, check_workers
from dsf.cli.known_names import QUANTITIES, check_known
from dsf.cli.model_argument import check_model
from dsf.cli.model_options import Checkpoint, Heads, Layers
from dsf.cli.options import check_heads, check_layers, check_tolerance
from dsf.cli.output_place import check_folder, check_free
from dsf.cli.threads import ThreadCount, Threads
from dsf.cli.typed_numbers import real_option, whole_option


def run(
    model: Checkpoint,
    prompts: Annotated[
        Path,
        typer.Argument(
            help="A UTF-8 file, one prompt a line: text, or with --ids numbers.", readable=False
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of this job alone.", readable=False)] = Path(
        "dsf-job"
    ),
    ids: Annotated[
        bool, typer.Option("--ids", help='Lines are token numbers, such as "1 2 3".')
    ] = False,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure; again for more. All by default, but for middle_hankel_rank of "
            "maps of more than 1,024 tokens."
        ),
    ] = None,
    batch: Annotated[int, whole_option(help="Neighbours of one length in one forward pass.")] = 1,
    workers: Annotated[int, whole_option(help="Processes of this machine.")] = 1,
    slurm: Annotated[
        Path | None,
        typer.Option(help="Run as Slurm jobs; the folder for their logs.", readable=False),
    ] = None,
    layerwise: Annotated[
        bool,
        typer.Option("--layerwise", help="Weights block by block: for models that do not fit."),
    ] = False,
    layers: Layers = None,
    heads: Heads = None,
    tolerance: Annotated[
        float | None,
        real_option(help="Largest relative error of a layer; by default what its type allows."),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure every layer and head of MODEL on every line of PROMPTS.

    Finished units are files: the same command continues where it was stopped. Every process
    computes on one thread unless --threads gives it more, so that several do not wait for each
    other.
    """

    def check() -> None:
        check_known("--quantity", quantity or (), QUANTITIES)
        for option, number in (("--batch", batch), ("--workers", workers)):
            if number < 1:
                raise ValueError(f"{option} is {number}; it must be at least 1.")
        check_workers(workers)
        if slurm is not None and workers > 1:
            raise ValueError("--workers and --slurm exclude each other: leave one of them out.")
        check_tolerance(tolerance)
        check_layers(layers)
        check_heads(heads)
        check_installed("joblib" if workers > 1 else "submitit" if slurm is not None else "")
        facts = check_model(model, offline=False)
        check_prompts(prompts, facts, ids=ids)
        check_folder(out, models=[model])
        check_job_folder(out)
        check_free(out)
        if slurm is not None:
            check_folder(slurm, option="--slurm")

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.measured import Work, measure

        each = count.asked or 1
        return measure(
            Work(
                model=model,
                prompts=prompts,
                out=out,
                quantities=tuple(quantity or ()),
                batch=batch,
                layerwise=layerwise,
                layers=layers,
                heads=heads,
                tolerance=tolerance,
                threads=each,
            ),
            ids=ids,
            workers=workers,
            slurm=slurm,
            watched=not (as_json or quiet),
        )

    give(
        "measure",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
