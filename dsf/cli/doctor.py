"""``dsf doctor``: what this machine has, and what is missing."""

from pathlib import Path
from typing import Annotated

import typer

from dsf.cli.answer import LIMIT, WELL, Answer, AsJson, Quiet, Verbose, give
from dsf.cli.threads import ThreadCount, Threads


def run(
    out: Annotated[
        Path, typer.Option(help="Folder that reports would go to.", readable=False)
    ] = Path(),
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check versions, device, memory, disk, the extras, and other packages that are called dsf.

    Exit code 0 if dsf can work here, else 3.
    """

    def work(count: ThreadCount) -> Answer:
        from dsf.cli.machine import findings
        from dsf.cli.terminal import print_table

        found = findings(out, str(count))
        bad = [finding for finding in found if finding.verdict == "missing"]

        def show() -> None:
            rows = [(each.what, each.found, each.verdict, each.cure) for each in found]
            print_table(("what", "found", "verdict", "cure"), rows)
            print(f"{len(bad)} missing: see above" if bad else "dsf can work here")
            if warned := sum(each.verdict == "warning" for each in found):
                print(f"{warned} to look at: see the warnings above")

        facts = {"findings": [each.__dict__ for each in found]}
        return Answer(facts, show, code=LIMIT if bad else WELL)

    def check() -> None:
        if out.is_symlink() and not out.exists():
            raise ValueError(f"--out {str(out)!r}: is a link that leads nowhere. Remove it.")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {str(out)!r}: is a file, and a folder is expected.")

    give(
        "doctor",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )
