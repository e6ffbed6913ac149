"""``dsf measure``: one model on many prompts, as a job that resumes."""

from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.model_options import Checkpoint
from dsf.cli.threads import ThreadCount, Threads


def run(
    model: Checkpoint,
    prompts: Annotated[
        Path, typer.Argument(help="A UTF-8 file, one prompt a line: text, or with --ids numbers.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of this job alone.")] = Path("dsf-job"),
    ids: Annotated[
        bool, typer.Option("--ids", help='Lines are token numbers, such as "1 2 3".')
    ] = False,
    quantity: Annotated[
        list[str] | None, typer.Option(help="What to measure; again for more. All by default.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Neighbours of one length in one forward pass.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes of this machine.")] = 1,
    slurm: Annotated[
        Path | None, typer.Option(help="Run as Slurm jobs; the folder for their logs.")
    ] = None,
    layerwise: Annotated[
        bool,
        typer.Option("--layerwise", help="Weights block by block: for models that do not fit."),
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(help='Which layers: "0:4", "2,5", a name or a pattern such as "*.3.*".'),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help='Which heads, or channels, of each layer: "2" or "0:4".')
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative error of a layer; by default what its type allows."),
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

    give("measure", work, threads=threads, as_json=as_json, quiet=quiet, verbose=verbose)
