"""A claim as data: what is said, by whom, where, under which conditions, and its check."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from dsf.certificates import Certificate, Verdict
from dsf.claims.papers import PAPERS


class Table(StrEnum):
    """Whose voice a claim has.

    ``PAPER``: a statement of a paper, with the sentence. ``SLIP``: a misprint or a slip of the pen,
    which gets no verdict word. ``CODE``: what released code does. ``OWN``: a result or a reading of
    this project.
    """

    PAPER = "paper"
    SLIP = "slip"
    CODE = "code"
    OWN = "own"


class Standing(StrEnum):
    """How it is known that somebody says so.

    ``STATED``: the sentence was read in the paper's text. ``AUTHORS``: the authors say it outside
    the paper. ``SECOND_HAND``: seen in a review, a caption or a restatement by others only.
    ``CODE``: read in released code. ``OWN``: worked out in this project; nobody else is known to
    say it.
    """

    STATED = "stated"
    AUTHORS = "authors"
    SECOND_HAND = "second-hand"
    CODE = "code"
    OWN = "own"


MEANINGS = {
    Standing.STATED: "the sentence was read in the paper's text",
    Standing.AUTHORS: "the authors say it outside the paper: in a README, a comment in their code "
    "or an answer to a reader",
    Standing.SECOND_HAND: "seen in a public review, a caption or a restatement by others; the "
    "paper's own sentence was not read",
    Standing.CODE: "read in released code, at the commit that is named",
    Standing.OWN: "worked out in this project; nobody else is known to say it",
}
"""The words of standing, explained to a reader."""

CONFIRMED = "confirmed"
NOT_CONFIRMED = "not confirmed"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement and how it is decided.

    Attributes:
        id: paper and number, such as ``INL-9``; never reused.
        table: whose voice it is.
        statement: what the check decides, as a sentence.
        standing: how it is known that somebody says so.
        expected: the verdict on record. The check does not see it. Of a slip it is the verdict on
            the sentence that the slip is there, and is never shown.
        check: decides the claim. Its arguments have defaults; a test changes one of them (a sign,
            an index, a hypothesis) and sees another verdict.
        quote: at most one sentence, word for word. Of a row of the tables ``CODE`` and ``OWN`` it
            is the nearest sentence that was found, and not the statement.
        place: where the quote stands, or which file of which commit was read.
        hypotheses: the conditions that go with the quote.
        stands: of a refuted statement, what stands beside what falls.
        note: what a reader should know: what the case shows, what is out of reach and why.

    Raises:
        ValueError: if the id is of no known paper; if a statement of a paper is refuted without its
            sentence, its place, its hypotheses and what stands; if a row of another table is
            refuted.
    """

    id: str
    table: Table
    statement: str
    standing: Standing
    expected: Verdict
    check: Callable[[], Certificate]
    quote: str = ""
    place: str = ""
    hypotheses: tuple[str, ...] = ()
    stands: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.paper not in PAPERS:
            raise ValueError(
                f"Claim: id is '{self.id}', but it must start with one of {', '.join(PAPERS)}."
            )
        if self.expected is not Verdict.REFUTED:
            return
        if self.table is not Table.PAPER:
            raise ValueError(
                f"Claim: {self.id} is in the table '{self.table}' and REFUTED. Word it as what is "
                f"so, which the check then proves; only a paper's own sentence is refuted."
            )
        missing = [
            name for name in ("quote", "place", "hypotheses", "stands") if not getattr(self, name)
        ]
        if missing:
            raise ValueError(
                f"Claim: {self.id} refutes a paper without its {' and its '.join(missing)}. Quote "
                f"the sentence with its place and conditions, and say what stands; without a "
                f"sentence the row belongs to the table '{Table.OWN}'."
            )

    @property
    def paper(self) -> str:
        """The letters in front of the number."""
        return self.id.split("-")[0]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the check of a claim said.

    Attributes:
        seconds: how long it took.
    """

    claim: Claim
    certificate: Certificate
    seconds: float

    @property
    def as_recorded(self) -> bool:
        """Whether the verdict is the one on record."""
        return self.certificate.verdict is self.claim.expected

    @property
    def word(self) -> str:
        """The verdict as it is shown: a slip is confirmed or not, and nothing else."""
        if self.claim.table is Table.SLIP:
            return CONFIRMED if self.as_recorded else NOT_CONFIRMED
        return self.certificate.verdict.value


def decide(claim: Claim) -> Outcome:
    """Run the check of one claim."""
    begun = time.perf_counter()
    certificate = claim.check()
    return Outcome(claim=claim, certificate=certificate, seconds=time.perf_counter() - begun)
