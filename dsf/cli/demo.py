"""``dsf demo``: four trained models that come with the package, side by side."""

import time
from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give


def run(
    out: Annotated[Path, typer.Option(help="Folder for report.html and maps.png.")] = Path(
        "dsf-demo"
    ),
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Inspect the small models inside the package on one recall prompt, and write a report.

    Needs no network and takes seconds.
    """

    def work() -> Answer:
        from dsf.cli.embedded import inspect_embedded, next_command
        from dsf.cli.layers import layer_facts, show_layers
        from dsf.cli.results import open_page, write_results

        begun = time.perf_counter()
        watched = not (as_json or quiet)
        shown = inspect_embedded(watched=watched)
        files = write_results(
            shown.inspection, out, title=shown.title, facts=shown.facts, watched=watched
        )
        seconds = time.perf_counter() - begun
        if open_:
            open_page(files["report"])

        def show() -> None:
            print(f"Prompt: {' '.join(shown.prompt)}")
            show_layers(shown.inspection)
            for name, value in shown.facts.items():
                print(f"{name}: {value}")
            print(f"{files['report']} and {files['picture']}, after {seconds:.1f} s")
            print(f"Next: {next_command()}")

        facts = {**layer_facts(shown.inspection), "recall": shown.accuracy, "files": files}
        return Answer({**facts, "prompt": shown.prompt, "seconds": seconds}, show)

    give("demo", work, as_json=as_json, quiet=quiet, verbose=verbose)
