"""``python -m papers``: what the founding papers say, and what is said about them, decided.

Each statement is decided: ARGUED (by symbols or by an argument with checked hypotheses), REFUTED
with a witness, HOLDS_NUMERICALLY on the cases it states, or UNKNOWN with what it would take; a
misprint is confirmed or not. Exit code 0 if every verdict is the one on record, else 1; 2 for a
wrong call.
"""

import argparse
import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from papers.statements import (
    PAPERS,
    Outcome,
    Statement,
    Table,
    chosen,
    decide_all,
    plain,
)

WELL, DIFFERENT, USAGE = 0, 1, 2
WIDTH = 96
VOICES = {
    Table.PAPER: "the paper says",
    Table.SLIP: "a slip",
    Table.CODE: "released code",
    Table.OWN: "a result of this project",
}


class Parser(argparse.ArgumentParser):
    """Wrong calls end with exit code 2, as one JSON object with ``--json``."""

    def error(self, message: str) -> NoReturn:
        if "--json" in sys.argv:
            error = {"kind": "ValueError", "message": message}
            _print_json(USAGE, {"error": error})
        else:
            print(f"papers: {message}", file=sys.stderr)
        raise SystemExit(USAGE)


def main() -> int:
    """Decide or list the chosen statements and return the exit code."""
    parser = Parser(prog="python -m papers", description=__doc__)
    parser.add_argument("ids", nargs="*", help='statements to show in full: "MLA-8 ZER-17"')
    parser.add_argument("--paper", type=str.upper, choices=list(PAPERS), help="only this paper")
    parser.add_argument("--table", type=str.lower, choices=list(map(str, Table)), help="only this")
    parser.add_argument("--list", action="store_true", help="show the statements, decide none")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", "-q", action="store_true", help="print only errors")
    parser.add_argument("--verbose", "-v", action="store_true", help="show each in full")
    asked = parser.parse_args()
    for option, given in (("--paper", asked.paper), ("--table", asked.table)):
        if asked.ids and given is not None:
            parser.error(f"expected ids or {option}, got both: leave one of the two out.")
    if asked.threads is not None and asked.threads < 1:
        parser.error(f"--threads: expected at least 1, got {asked.threads}.")
    try:
        statements = chosen(ids=tuple(asked.ids), paper=asked.paper, table=asked.table)
    except ValueError as error:
        parser.error(str(error))
    if asked.list:
        if asked.json:
            _print_json(WELL, {"claims": [statement.facts() for statement in statements]})
        elif not asked.quiet:
            _print_lines([(each.id, each.table.value, each.statement) for each in statements])
        return WELL
    return _decide(statements, asked)


def _decide(statements: Sequence[Statement], asked: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(asked.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    outcomes = list(decide_all(tuple(statements)))
    different = [outcome for outcome in outcomes if not outcome.as_recorded]
    code = DIFFERENT if different else WELL
    if asked.json:
        _print_json(
            code,
            {
                "threads": torch.get_num_threads(),
                "claims": [outcome.facts() for outcome in outcomes],
                "not_as_recorded": [outcome.statement.id for outcome in different],
                "seconds": sum(outcome.seconds for outcome in outcomes),
            },
        )
    elif not asked.quiet:
        if asked.ids or asked.verbose:
            for outcome in outcomes:
                print("\n".join(_everything(outcome)), end="\n\n")
        else:
            found = [(outcome.statement, outcome.word) for outcome in outcomes]
            _print_lines([(each.id, each.table, word, each.statement) for each, word in found])
        print(_summary(outcomes))
        for outcome in different:
            print(
                f"{outcome.statement.id} came back {outcome.certificate.verdict.value}, but "
                f"{outcome.statement.expected} is on record: {outcome.certificate}"
            )
    return code


def _print_lines(rows: Sequence[Sequence[str]]) -> None:
    """One line per statement, the sentence last and folded under itself."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, sentence in rows:
        head = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        indent = " " * (len(head) + 2)
        print(textwrap.fill(f"{head}  {sentence}", WIDTH, subsequent_indent=indent))


def _everything(outcome: Outcome) -> Iterator[str]:
    statement, found = outcome.statement, outcome.witness
    yield (
        f"{statement.id}  {outcome.word}  ({VOICES[statement.table]}; {PAPERS[statement.paper]})"
    )
    quote = "quote" if statement.table in (Table.PAPER, Table.SLIP) else "nearest sentence"
    for head, text in (
        ("statement", statement.statement),
        (quote, f'"{statement.quote}"' if statement.quote else ""),
        ("place", statement.place),
        ("standing", statement.standing.value),
        ("hypotheses", "; ".join(statement.hypotheses)),
        ("added here", "; ".join(statement.added)),
        ("verdict", outcome.word),
        ("reason", outcome.reason),
        ("what stands", statement.stands),
        ("witness", json.dumps(plain(found), ensure_ascii=False) if found else ""),
    ):
        if text:
            yield from textwrap.wrap(
                f"{head}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    "
            )


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(
        f"misprints {outcome.word}" if outcome.statement.table is Table.SLIP else outcome.word
        for outcome in outcomes
    )
    words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    return f"{words}; {sum(outcome.seconds for outcome in outcomes):.0f} s"


def _print_json(code: int, facts: dict[str, Any]) -> None:
    whole = {"schema_version": 1, "command": "papers", "exit_code": code, **facts}
    print(json.dumps(whole, indent=2, allow_nan=False))


if __name__ == "__main__":
    sys.exit(main())
