"""From what a check found to a certificate: the only ways a claim of a paper is decided.

``nan`` decides nothing anywhere, a false claim needs its witness, what was only measured holds on
the cases that were measured, and what rests on symbols or an argument, which no checker reads, is
ARGUED.
"""

import math
from collections.abc import Mapping
from typing import Any

import sympy
from sympy.logic.boolalg import BooleanAtom

from dsf.certificates import Certificate, Level, Verdict


def measured(claim: str, error: float, *, within: float, method: str) -> Certificate:
    """HOLDS_NUMERICALLY if ``error`` is at most ``within``; otherwise the error is the witness.

    Raises:
        ValueError: if the error is negative.
    """
    if error < 0:
        raise ValueError(
            f"measured: an error is a size, but {error} came for '{claim}'. Take its "
            f"absolute value."
        )
    if error <= within:
        return _floating(claim, Verdict.HOLDS_NUMERICALLY, method, within, error)
    if math.isnan(error):
        return _floating(claim, Verdict.UNKNOWN, method, limits={"error": "nan"})
    witness = {"error": error, "allowed": within}
    return _floating(claim, Verdict.REFUTED, method, within, error, witness=witness)


def held(
    claim: str,
    conditions: Mapping[str, bool],
    *,
    method: str,
    observed: float | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Certificate:
    """HOLDS_NUMERICALLY if every named condition was met; those that failed are the witness.

    Args:
        figures: the numbers behind the conditions, kept as evidence.

    Raises:
        ValueError: if there is no condition.
    """
    _not_empty(claim, conditions)
    if observed is not None and math.isnan(observed):
        return _floating(claim, Verdict.UNKNOWN, method, limits={"observed": "nan"})
    failed = [name for name, met in conditions.items() if not met]
    verdict = Verdict.REFUTED if failed else Verdict.HOLDS_NUMERICALLY
    witness = {"failed": failed, **(figures or {})} if failed else None
    return Certificate(
        claim=claim,
        verdict=verdict,
        level=Level.FLOAT,
        method=method,
        observed=observed,
        witness=witness,
        evidence=figures or {},
    )


def refuted(
    claim: str,
    violation: float,
    *,
    beyond: float,
    witness: Mapping[str, Any],
    method: str,
) -> Certificate:
    """REFUTED if the case in ``witness`` misses the claim by more than ``beyond``, else UNKNOWN."""
    if violation > beyond:
        return _floating(claim, Verdict.REFUTED, method, observed=violation, witness=witness)
    limits = {"violation": str(violation), "needed": beyond}
    return _floating(claim, Verdict.UNKNOWN, method, limits=limits)


def shown(
    claim: str,
    difference: float,
    *,
    beyond: float,
    case: Mapping[str, Any],
    method: str,
) -> Certificate:
    """ARGUED if the one ``case`` shows a difference of more than ``beyond``, else UNKNOWN.

    For statements that one case decides: something is not always so, or depends on something. The
    case stands in the evidence.
    """
    if difference > beyond:
        return _floating(
            claim, Verdict.ARGUED, method, observed=difference, evidence={"case": dict(case)}
        )
    limits = {"difference": str(difference), "needed": beyond}
    return _floating(claim, Verdict.UNKNOWN, method, limits=limits)


def identical(claim: str, residual: sympy.Expr | int, *, method: str) -> Certificate:
    """ARGUED if the symbolic ``residual`` is zero. Another one may be zero in disguise: UNKNOWN.

    Raises:
        TypeError: if the residual is a truth value, which is no difference of two expressions.
    """
    if isinstance(residual, (bool, BooleanAtom)):
        raise TypeError(
            f"identical: the residual is the difference of two expressions, but the truth value "
            f"{residual} came for '{claim}'. Give the difference itself."
        )
    zero = residual == 0
    return Certificate(
        claim=claim,
        verdict=Verdict.ARGUED if zero else Verdict.UNKNOWN,
        level=Level.REAL,
        method=method,
        assumptions=("sympy simplifies correctly",),
        limits={} if zero else {"residual": str(residual)[:200]},
    )


def argued(
    claim: str,
    argument: str,
    hypotheses: Mapping[str, bool],
    *,
    method: str,
    observed: float | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Certificate:
    """ARGUED: a short ``argument`` whose ``hypotheses`` were checked, exactly or in the code.

    One that fails leaves the claim open: UNKNOWN. The argument stands among the assumptions, since
    no program read it.

    Args:
        figures: numbers that belong to the hypotheses, kept as evidence.

    Raises:
        ValueError: if there is no hypothesis.
    """
    _not_empty(claim, hypotheses)
    failed = [name for name, met in hypotheses.items() if not met]
    return Certificate(
        claim=claim,
        verdict=Verdict.UNKNOWN if failed else Verdict.ARGUED,
        level=Level.REAL,
        method=method,
        observed=observed,
        assumptions=(argument,),
        evidence={"hypotheses": list(hypotheses), **(figures or {})},
        limits={"failed": failed} if failed else {},
    )


def out_of_reach(claim: str, reason: str, *, trend: Mapping[str, Any] | None = None) -> Certificate:
    """UNKNOWN: what it would take, and the trend that was seen at a small size."""
    return Certificate(
        claim=claim,
        verdict=Verdict.UNKNOWN,
        level=Level.FLOAT,
        method="not decided at this scale",
        evidence=trend or {},
        limits={"scale": reason},
    )


def _not_empty(claim: str, conditions: Mapping[str, bool]) -> None:
    if not conditions:
        raise ValueError(
            f"claims: nothing was checked for '{claim}'. Name at least one condition and whether "
            f"it was met."
        )


def _floating(
    claim: str,
    verdict: Verdict,
    method: str,
    bound: float | None = None,
    observed: float | None = None,
    **facts: Mapping[str, Any],
) -> Certificate:
    """``facts``: the witness, the evidence or the limits."""
    return Certificate(
        claim=claim,
        verdict=verdict,
        level=Level.FLOAT,
        method=method,
        bound=bound,
        observed=observed,
        **facts,  # type: ignore[arg-type]
    )
