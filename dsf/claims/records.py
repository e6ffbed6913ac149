"""Claims and outcomes as plain data, for JSON and for tables."""

import math
from collections.abc import Mapping
from typing import Any

from dsf.claims.claim import Claim, Outcome


def described(claim: Claim) -> dict[str, Any]:
    """What is claimed, and the verdict on record."""
    return {
        "id": claim.id,
        "statement": claim.statement,
        "standing": claim.standing.value,
        "expected": claim.expected.value,
        "note": claim.note,
    }


def decided(outcome: Outcome) -> dict[str, Any]:
    """What is claimed and what its check said. A number that is not finite becomes None."""
    certificate = outcome.certificate
    return described(outcome.claim) | {
        "verdict": certificate.verdict.value,
        "level": certificate.level.value,
        "method": certificate.method,
        "bound": plain(certificate.bound),
        "observed": plain(certificate.observed),
        "witness": plain(certificate.witness),
        "evidence": plain(certificate.evidence),
        "assumptions": list(certificate.assumptions),
        "limits": plain(certificate.limits),
        "seconds": round(outcome.seconds, 3),
    }


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
