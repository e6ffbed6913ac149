"""Claims and their verdicts, for a terminal and for JSON."""

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from dsf.claims import Claim, Outcome, Table, check_all
from dsf.claims.papers import PAPERS
from dsf.claims.records import decided, described, plain, reason, witness
from dsf.cli.answer import FAILED, WELL, Answer
from dsf.cli.progress import progress
from dsf.cli.terminal import print_table

VOICES = {
    Table.PAPER: "the paper says",
    Table.SLIP: "a slip",
    Table.CODE: "released code",
    Table.OWN: "a result of this project",
}
HEADS = ("claim", "whose", "verdict", "statement")
WIDTH = 96


def list_claims(claims: Sequence[Claim]) -> Answer:
    """What would be decided."""

    def show() -> None:
        rows = [(claim.id, claim.table.value, claim.statement) for claim in claims]
        print_table(("claim", "whose", "statement"), rows, prose=True)

    return Answer({"claims": [described(claim) for claim in claims]}, show)


def decide_claims(claims: Sequence[Claim], *, watched: bool, whole: bool) -> Answer:
    """Decide them all; fails if a verdict is not the one on record.

    Args:
        whole: show everything that is known about each claim, where else there is one line.
    """
    outcomes = []
    with progress(f"{len(claims)} claims", shown=watched) as told:
        for outcome in check_all(tuple(claims)):
            outcomes.append(outcome)
            told(len(outcomes) / len(claims))
    others = [outcome for outcome in outcomes if not outcome.as_recorded]

    def show() -> None:
        if whole:
            for outcome in outcomes:
                print("\n".join(_everything(outcome)), end="\n\n")
        else:
            print_table(HEADS, [_row(outcome) for outcome in outcomes], prose=True)
        print(_summary(outcomes))
        for outcome in others:
            print(
                f"{outcome.claim.id} came back {outcome.certificate.verdict.value}, but "
                f"{outcome.claim.expected.value} is on record: {outcome.certificate}"
            )

    facts = {
        "claims": [decided(each) for each in outcomes],
        "not_as_recorded": [outcome.claim.id for outcome in others],
        "seconds": sum(outcome.seconds for outcome in outcomes),
    }
    return Answer(facts, show, FAILED if others else WELL)


def _row(outcome: Outcome) -> tuple[str, ...]:
    claim = outcome.claim
    return claim.id, claim.table.value, outcome.word, claim.statement


def _everything(outcome: Outcome) -> Iterator[str]:
    claim = outcome.claim
    yield f"{claim.id}  {outcome.word}  ({VOICES[claim.table]}; {PAPERS[claim.paper]})"
    found = witness(outcome)
    quote = "quote" if claim.table in (Table.PAPER, Table.SLIP) else "nearest sentence"
    for head, text in (
        ("statement", claim.statement),
        (quote, f'"{claim.quote}"' if claim.quote else ""),
        ("place", claim.place),
        ("standing", claim.standing.value),
        ("hypotheses", "; ".join(claim.hypotheses)),
        ("verdict", outcome.word),
        ("reason", reason(outcome)),
        ("what stands", claim.stands),
        ("witness", json.dumps(plain(found), ensure_ascii=False) if found else ""),
    ):
        if text:
            yield from textwrap.wrap(
                f"{head}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    "
            )


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(
        f"misprints {outcome.word}" if outcome.claim.table is Table.SLIP else outcome.word
        for outcome in outcomes
    )
    told = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
    return f"{told}; {sum(outcome.seconds for outcome in outcomes):.0f} s"
