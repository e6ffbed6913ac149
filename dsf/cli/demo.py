"""``dsf demo``: the trained models inside the package, or one language model on a text."""

import time
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.browser import open_page
from dsf.cli.earlier_run import check_not_foreign, check_not_of_another
from dsf.cli.model_argument import check_model
from dsf.cli.output_place import REPORT, check_folder, check_free, check_no_run
from dsf.cli.progress import stage
from dsf.cli.threads import ThreadCount, Threads

RUN = "run"
"""The folder of the evidence, in that of the report."""
INSIDE = {"weights": "not from a file"}
"""How the run of the models inside the package is known."""


def run(
    model: Annotated[
        str | None,
        typer.Option(
            help="A language model to show instead: a folder, a GGUF file, or a hub id owner/name."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is written.", readable=False)] = Path(
        "dsf-demo"
    ),
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Inspect the small models inside the package: on a recall prompt, and on a paragraph of text.

    The recall models are checked too. Writes a report, a picture and a run folder with the
    evidence. Needs no network. With --model it continues a prompt, and inspects that model on a
    paragraph of text.
    """

    def check() -> None:
        if model is not None:
            facts = check_model(model, offline=False)
            if facts.tokenizer is False:
                raise ValueError(
                    f"{model} has no tokenizer, so it cannot read a paragraph of text. Give "
                    "another model, or use dsf inspect with --ids."
                )
        check_folder(out, files=REPORT, models=[] if model is None else [model])
        check_no_run(out)
        check_free(out)
        if model is None:
            check_folder(out / RUN)
            check_not_foreign(out / RUN)
            check_not_of_another(out / RUN, INSIDE)

    def work(count: ThreadCount) -> Answer:
        from dsf.runtime.files import alone_in

        watched = not (as_json or quiet)
        with alone_in(out):
            if model is None:
                return _of_package(out, opens=open_, watched=watched)
            return _of_model(model, out, count, opens=open_, watched=watched)

    give(
        "demo",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )


def _of_model(model: str, out: Path, count: ThreadCount, *, opens: bool, watched: bool) -> Answer:
    """The answer about a model of the user's."""
    from dsf.cli.layers import layer_facts, show_layers
    from dsf.cli.paragraph import PROMPT, read_paragraph
    from dsf.cli.results import write_results
    from dsf.cli.terminal import print_table

    begun = time.perf_counter()
    stage(f"reading {model}")
    shown = read_paragraph(model, count)
    files = write_results(shown.inspection, out, title=None, facts=shown.facts, watched=watched)
    seconds = time.perf_counter() - begun
    opening = open_page(Path(files["report"])) if opens else None

    def show() -> None:
        show_layers(shown.inspection)
        heads = ("layer", "sinks", "heads", "mean weight on the first token")
        print_table(heads, [(n, str(a), str(b), f"{c:.0%}") for n, a, b, c in shown.sinks])
        for name, value in shown.facts.items():
            print(f"{name}: {value}")
        print(f"{files['report']} and {files['picture']}, after {seconds:.1f} s")
        if opening is not None:
            print(opening)

    facts = {**layer_facts(shown.inspection), "files": files, "seconds": seconds}
    facts.update(prompt=PROMPT, continued=shown.continued, sinks=shown.sinks)
    facts.update({} if opening is None else {"open": opening.facts()})
    return Answer(facts, show)


def _of_package(out: Path, *, opens: bool, watched: bool) -> Answer:
    """The answer about the models inside the package."""
    from dsf.cli.embedded import inspect_embedded, inspect_text, next_command
    from dsf.cli.layers import layer_facts, show_layers
    from dsf.cli.results import decide, write_results
    from dsf.cli.verdicts import counted, meanings

    begun = time.perf_counter()
    recalled = inspect_embedded(watched=watched)
    told = inspect_text(watched=watched)
    evidence = out / RUN
    verdicts = decide(recalled.inspection, evidence, watched=watched)
    files = write_results(
        recalled.inspection,
        out,
        title=f"A recall task and a text, {len(told.bits)} architectures",
        facts={**recalled.facts, **told.facts},
        verdicts=verdicts,
        beside=[told.inspection],
        watched=watched,
    )
    seconds = time.perf_counter() - begun
    opening = open_page(Path(files["report"])) if opens else None

    def show() -> None:
        print(f"Prompt: {' '.join(recalled.prompt)}")
        show_layers(recalled.inspection)
        for name, value in recalled.facts.items():
            print(f"{name}: {value}")
        for line in meanings(verdicts):
            print(line)
        print(f"{counted(verdicts)}; check the evidence again with: dsf check {evidence}\n")
        for name, value in told.facts.items():
            print(f"{name}: {value}")
        show_layers(told.inspection)
        print(f"{files['report']} and {files['picture']}, after {seconds:.1f} s")
        if opening is not None:
            print(opening)
        print(f"Next: {next_command()}")

    about_text = {
        **layer_facts(told.inspection),
        "tokens": told.tokens,
        "bits_per_byte": told.bits,
    }
    facts = {**layer_facts(recalled.inspection), "recall": recalled.accuracy, "files": files}
    facts.update(prompt=recalled.prompt, text=about_text, seconds=seconds, run=str(evidence))
    facts.update({} if opening is None else {"open": opening.facts()})
    return Answer({**facts, "verdicts": verdicts.to_json()}, show)
