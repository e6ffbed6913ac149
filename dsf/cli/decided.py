"""Claims of papers and their verdicts, for a terminal and for JSON."""

from collections import Counter
from collections.abc import Sequence

from dsf.claims import Claim, Outcome, check_all
from dsf.claims.records import decided, described
from dsf.cli.answer import FAILED, WELL, Answer
from dsf.cli.terminal import print_table, progress

HEADS = ("claim", "verdict", "observed", "statement")


def list_claims(claims: Sequence[Claim]) -> Answer:
    """What would be decided."""

    def show() -> None:
        rows = [(claim.id, claim.standing.value, claim.statement) for claim in claims]
        print_table(("claim", "standing", "statement"), rows, prose=True)

    return Answer({"claims": [described(claim) for claim in claims]}, show)


def decide_claims(claims: Sequence[Claim], *, watched: bool) -> Answer:
    """Decide them all; fails if a verdict is not the one on record."""
    outcomes = []
    with progress(f"{len(claims)} claims", shown=watched) as told:
        for outcome in check_all(tuple(claims)):
            outcomes.append(outcome)
            told(len(outcomes) / len(claims))
    others = [outcome for outcome in outcomes if not outcome.as_recorded]

    def show() -> None:
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
    certificate = outcome.certificate
    observed = "" if certificate.observed is None else f"{certificate.observed:.3g}"
    return outcome.claim.id, certificate.verdict.value, observed, outcome.claim.statement


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.certificate.verdict.value for outcome in outcomes)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"{told}; {sum(outcome.seconds for outcome in outcomes):.0f} s"
