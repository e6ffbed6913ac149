"""``dsf claims``: what the founding papers say, and what is said about them, decided."""

from typing import Annotated

import typer

from dsf.cli.answer import Answer, AsJson, Quiet, Verbose, give
from dsf.cli.known_names import CLAIMS, TABLES, check_known
from dsf.cli.threads import ThreadCount, Threads


def run(
    ids: Annotated[
        list[str] | None,
        typer.Argument(help='Claims to decide and to show in full, such as "MLA-8 ZER-27".'),
    ] = None,
    *,
    paper: Annotated[
        str | None, typer.Option(help="Only this paper: DSF, CDY, EIG, INL, MLA or ZER.")
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(help="Only this table: paper, slip, code or own (results of this project)."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the claims, decide none.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decide what the founding papers say, and what is said about them.

    Each statement comes back ARGUED (by symbols or by an argument with checked hypotheses),
    REFUTED with a witness, HOLDS_NUMERICALLY on the cases it states, or UNKNOWN with what it would
    take; a misprint is confirmed or not. With ids: statement, quote, place, verdict, reason and
    witness. Exit code 0 if every verdict is the one on record, else 1.
    """

    def check() -> None:
        for each in ids or ():
            _check_id(each)
        for option, given in (("--paper", paper), ("--table", table)):
            if ids and given is not None:
                raise ValueError(
                    f"{option} {given} chooses among all claims, and {' '.join(ids)} names them: "
                    "leave one of the two out."
                )
        if paper is not None:
            check_known("--paper", [paper.upper()], CLAIMS)
        if table is not None:
            check_known("--table", [table.lower()], TABLES)

    def work(_: ThreadCount) -> Answer:
        from dsf.claims import chosen
        from dsf.cli.decided import decide_claims, list_claims

        wanted = chosen(ids=tuple(ids or ()), paper=paper, table=table)
        if list_:
            return list_claims(wanted)
        return decide_claims(wanted, watched=not (as_json or quiet), whole=bool(ids))

    give(
        "claims",
        work,
        threads=threads,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
        check=check,
    )


def _check_id(typed: str) -> None:
    paper, _, number = typed.upper().partition("-")
    if paper in CLAIMS and number in map(str, range(1, CLAIMS[paper] + 1)):
        return
    if paper in CLAIMS:
        known = f"Those of this paper are {paper}-1 to {paper}-{CLAIMS[paper]}"
    else:
        known = f"Ids look like MLA-8; the papers are {', '.join(CLAIMS)}"
    raise ValueError(f"no claim is called {typed!r}. {known}; 'dsf claims --list' shows all.")
