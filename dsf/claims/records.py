"""Claims and outcomes as plain data, for JSON and for tables."""

import math
from collections.abc import Mapping
from typing import Any

from dsf.claims.claim import Claim, Outcome, Table


def described(claim: Claim) -> dict[str, Any]:
    """What is claimed, by whom and where, and the verdict on record; of a slip there is none."""
    return {
        "id": claim.id,
        "paper": claim.paper,
        "table": claim.table.value,
        "statement": claim.statement,
        "quote": claim.quote,
        "place": claim.place,
        "hypotheses": list(claim.hypotheses),
        "standing": claim.standing.value,
        "expected": None if claim.table is Table.SLIP else claim.expected.value,
        "stands": claim.stands,
        "note": claim.note,
    }


def decided(outcome: Outcome) -> dict[str, Any]:
    """What is claimed and what its check said. A number that is not finite becomes None.

    Of a slip the verdict is None and ``confirmed`` says whether the check saw it; of other claims
    ``confirmed`` is None.
    """
    certificate = outcome.certificate
    slip = outcome.claim.table is Table.SLIP
    return described(outcome.claim) | {
        "verdict": None if slip else certificate.verdict.value,
        "confirmed": outcome.as_recorded if slip else None,
        "reason": reason(outcome),
        "level": certificate.level.value,
        "method": certificate.method,
        "bound": plain(certificate.bound),
        "observed": plain(certificate.observed),
        "witness": plain(witness(outcome)),
        "evidence": plain(certificate.evidence),
        "assumptions": list(certificate.assumptions),
        "limits": plain(certificate.limits),
        "seconds": round(outcome.seconds, 3),
    }


def reason(outcome: Outcome) -> str:
    """What a reader should know, how the check decided, and what the verdict rests on, in words."""
    certificate = outcome.certificate
    parts = [outcome.claim.note, f"checked by: {certificate.method}"]
    parts += [f"rests on: {each}" for each in certificate.assumptions]
    parts += [f"open: {each}" for each in certificate.limits.values()]
    return " ".join(f"{_capitalised(part).rstrip('.')}." for part in map(str, parts) if part)


def _capitalised(part: str) -> str:
    """A word of the text gets its capital, a Greek letter or a path stays what it is."""
    word = part.split(" ", 1)[0]
    return part[0].upper() + part[1:] if word.isascii() and word.isalpha() else part


def witness(outcome: Outcome) -> Mapping[str, Any] | None:
    """The case that decides: the witness of a refutation, or the one case of a proof."""
    certificate = outcome.certificate
    return certificate.witness or certificate.evidence.get("case")


def plain(value: Any) -> Any:
    """``value`` in the types that JSON has.

    Raises:
        TypeError: for a tensor, an array or anything else that is no plain value.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(
        f"claims: witness and evidence hold numbers, text, lists and mappings, but "
        f"{type(value).__name__} came. Give tensors as lists."
    )
