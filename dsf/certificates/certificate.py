"""A checked statement as data: claim, verdict, level, bound, observed, witness, method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Verdict(Enum):
    """What is known about a claim.

    ``PROVED`` and ``REFUTED`` with an ``identity`` were accepted by the checker. ``ARGUED``: an
    identity by computer algebra or a short argument, which the checker cannot read.
    ``HOLDS_NUMERICALLY``: measured on stated cases. ``NOT_APPLICABLE``: the property is not defined
    for this mixer, or the input is too short for it. ``UNKNOWN``: none of these.
    """

    PROVED = "PROVED"
    REFUTED = "REFUTED"
    UNKNOWN = "UNKNOWN"
    HOLDS_NUMERICALLY = "HOLDS_NUMERICALLY"
    ARGUED = "ARGUED"
    NOT_APPLICABLE = "NOT APPLICABLE"


class Level(Enum):
    """What the claim is about.

    ``DATA``: the stored numbers, read as exact rationals. ``REAL``: the real-valued map defined by
    stored weights and a set of inputs, with rounding enclosed. ``FLOAT``: the program as it runs.
    """

    DATA = "data"
    REAL = "real"
    FLOAT = "float"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One claim about one subject, with its verdict and what the verdict rests on.

    Attributes:
        claim: the statement as a sentence, with what it quantifies over.
        verdict: what is known; only ``dsf.certify`` returns PROVED, once the checker has
            accepted the file.
        level: what the claim is about; a verdict at one level is not a verdict at another.
        scope: of what the verdict speaks: of the stored numbers, of one input, of a box of inputs.
        bound: the proven bound, with direction and unit in ``claim``; None where there is none.
        observed: what was measured on this input; never a proof about other inputs.
        witness: the case that refutes the claim; required for REFUTED.
        method: how the verdict was reached.
        evidence: what an independent checker needs to accept the verdict.
        assumptions: statements that the verdict depends on and no checker can test.
        limits: for UNKNOWN, what ended the search: boxes, seconds, missing libraries, bad data; for
            NOT_APPLICABLE the reason.
        identity: SHA-256 of the file that the checker has accepted; empty if it has seen none.
        file: path of that file inside its folder.
    """

    claim: str
    verdict: Verdict
    level: Level
    method: str
    scope: str = ""
    bound: float | None = None
    observed: float | None = None
    witness: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if self.verdict is Verdict.PROVED and not self.identity:
            raise ValueError(
                f"Certificate: PROVED needs the 'identity' of a file that the checker accepted, "
                f"which '{self.claim}' has not. Use ARGUED for an argument, HOLDS_NUMERICALLY for "
                f"what was measured."
            )
        if self.verdict is Verdict.REFUTED and not self.witness:
            raise ValueError(
                f"Certificate: REFUTED needs a witness, but there is none for '{self.claim}'. "
                f"Without a witness the verdict is UNKNOWN."
            )
        for name in ("bound", "observed"):
            value = getattr(self, name)
            if value is not None and math.isnan(value) and self.verdict is not Verdict.UNKNOWN:
                raise ValueError(
                    f"Certificate: '{name}' is nan, so nothing is known about '{self.claim}'; the "
                    f"verdict must be UNKNOWN."
                )

    def __bool__(self) -> bool:
        raise TypeError(
            "a certificate has no truth value, because its verdict may be UNKNOWN. Compare the "
            "verdict, as in certificate.verdict is Verdict.PROVED."
        )

    def __str__(self) -> str:
        said = self.verdict.value
        if self.verdict is Verdict.REFUTED and not self.identity:
            said += ", not seen by the checker"
        if self.scope:
            said += f" {self.scope}"
        parts = [f"{said} ({self.level.value}): {self.claim}"]
        if self.bound is not None:
            parts.append(f"bound {self.bound:.6g}")
        if self.observed is not None:
            parts.append(f"observed {self.observed:.6g}")
        if self.verdict in (Verdict.UNKNOWN, Verdict.NOT_APPLICABLE) and self.limits:
            parts.append(", ".join(f"{name}: {value}" for name, value in self.limits.items()))
        return "; ".join(parts)
