"""A paper's claim as data: what is said, where, how sure we are that it is said, and its check."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dsf.certificates import Certificate, Verdict


class Standing(Enum):
    """How a claim came to this table.

    ``STATED``: the paper says it. ``CODE``: its released code does it. ``DERIVED``: worked out here
    from the paper's definitions. ``SECOND_HAND``: seen in a review or a summary only.
    ``UNCONFIRMED``: recalled or inferred; whether the paper says it is not known.
    """

    STATED = "stated"
    CODE = "code"
    DERIVED = "derived"
    SECOND_HAND = "second-hand"
    UNCONFIRMED = "unconfirmed"


PAPERS = {
    "DSF": "Understanding the differences in Foundation Models (arXiv:2405.15731)",
    "CDY": "Design Principles via Coefficient Dynamics (arXiv:2510.09389)",
    "EIG": "Task-Level Insights from Eigenvalues (arXiv:2510.09379)",
    "INL": "Bridging the Divide: InLine attention (arXiv:2412.06590)",
    "MLA": "MetaLA (arXiv:2411.10741)",
    "ZER": "ZeroS: zero-sum linear attention (arXiv:2602.05230)",
}
"""What the letters in front of a claim's number stand for."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement and how it is decided.

    Attributes:
        id: paper and number, such as ``INL-9``; never reused.
        statement: what is claimed, as a sentence; a false one is worded as it is believed.
        standing: how sure it is that the paper says so.
        expected: the verdict on record. The check does not see it.
        check: decides the claim. Its arguments have defaults; a test changes one of them (a sign,
            an index, a formula) and sees another verdict.
        note: what a reader should know: what the witness shows, what is out of reach and why, where
            a published number is not the one found here.
    """

    id: str
    statement: str
    standing: Standing
    expected: Verdict
    check: Callable[[], Certificate]
    note: str = ""

    def __post_init__(self) -> None:
        if self.id.split("-")[0] not in PAPERS:
            raise ValueError(
                f"Claim: id is '{self.id}', but it must start with one of {', '.join(PAPERS)}."
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


def decide(claim: Claim) -> Outcome:
    """Run the check of one claim."""
    begun = time.perf_counter()
    certificate = claim.check()
    return Outcome(claim=claim, certificate=certificate, seconds=time.perf_counter() - begun)
