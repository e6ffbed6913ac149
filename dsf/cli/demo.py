"""``dsf demo``: the trained models inside the package, or one language model on a text."""

import time
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.threads import ThreadCount, Threads


def run(
    model: Annotated[
        str | None,
        typer.Option(
            help="A language model to show instead: a folder, a GGUF file, or a hub id owner/name."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is written.")] = Path("dsf-demo"),
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

    def read(count: ThreadCount) -> Answer:
        from dsf.cli.layers import layer_facts, show_layers
        from dsf.cli.paragraph import PROMPT, read_paragraph
        from dsf.cli.results import open_page, write_results
        from dsf.cli.terminal import print_table

        begun = time.perf_counter()
        shown = read_paragraph(str(model), count)
        watched = not (as_json or quiet)
        files = write_results(shown.inspection, out, title=None, facts=shown.facts, watched=watched)
        seconds = time.perf_counter() - begun
        if open_:
            open_page(files["report"])

        def show() -> None:
            show_layers(shown.inspection)
            heads = ("layer", "sinks", "heads", "mean weight on the first token")
            print_table(heads, [(n, str(a), str(b), f"{c:.0%}") for n, a, b, c in shown.sinks])
            for name, value in shown.facts.items():
                print(f"{name}: {value}")
            print(f"{files['report']} and {files['picture']}, after {seconds:.1f} s")

        facts = {**layer_facts(shown.inspection), "files": files, "seconds": seconds}
        facts.update(prompt=PROMPT, continued=shown.continued, sinks=shown.sinks)
        return Answer(facts, show)

    def work(_: ThreadCount) -> Answer:
        from dsf.cli.embedded import inspect_embedded, inspect_text, next_command
        from dsf.cli.layers import layer_facts, show_layers
        from dsf.cli.results import decide, open_page, write_results
        from dsf.cli.verdicts import counted, meanings

        begun = time.perf_counter()
        watched = not (as_json or quiet)
        recalled = inspect_embedded(watched=watched)
        told = inspect_text(watched=watched)
        evidence = out / "run"
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
        if open_:
            open_page(files["report"])

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
            print(f"Next: {next_command()}")

        about_text = {
            **layer_facts(told.inspection),
            "tokens": told.tokens,
            "bits_per_byte": told.bits,
        }
        facts = {**layer_facts(recalled.inspection), "recall": recalled.accuracy, "files": files}
        facts.update(prompt=recalled.prompt, text=about_text, seconds=seconds, run=str(evidence))
        return Answer({**facts, "verdicts": verdicts.to_json()}, show)

    give(
        "demo",
        read if model else work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )
