"""From what a check found to a verdict: the only ways a statement is decided.

A check returns one of the certificates below; words and method come from ``statements.toml``.
``nan`` decides nothing anywhere, a false statement needs its witness, what was only measured holds
on the cases that were measured, and what rests on symbols or an argument, which no checker reads,
is ARGUED.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import sympy
from sympy.logic.boolalg import BooleanAtom

import dsf
from dsf.certificates import Certificate, Verdict

FLOAT, REAL = dsf.certify.Level.FLOAT, dsf.certify.Level.REAL
Check = TypeVar("Check", bound=Callable[[], Certificate])

CHECKS: dict[str, Callable[[], Certificate]] = {}
"""The check of every statement that has one, by id."""


def check(*ids: str) -> Callable[[Check], Check]:
    """Register a function as the check of the statements ``ids``.

    Its arguments have defaults; a test changes one of them (a sign, an index, a hypothesis) and
    sees another verdict.
    """

    def register(function: Check) -> Check:
        for id in ids:
            if id in CHECKS:
                raise ValueError(f"check: expected one check of '{id}', got two. Remove one.")
            CHECKS[id] = function
        return function

    return register


def measured(error: float, *, within: float) -> Certificate:
    """HOLDS_NUMERICALLY if ``error`` is at most ``within``; otherwise the error is the witness.

    Raises:
        ValueError: if the error is negative.
    """
    if error < 0:
        raise ValueError(f"measured: expected 'error' of at least 0, got {error}. Take its size.")
    if math.isnan(error):
        return _certificate(Verdict.UNKNOWN, limits={"error": "nan"})
    if error <= within:
        return _certificate(Verdict.HOLDS_NUMERICALLY, bound=within, observed=error)
    witness = {"error": error, "allowed": within}
    return _certificate(Verdict.REFUTED, bound=within, observed=error, witness=witness)


def held(
    conditions: Mapping[str, bool],
    *,
    observed: float | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Certificate:
    """HOLDS_NUMERICALLY if every named condition was met; those that failed are the witness.

    Args:
        figures: the numbers behind the conditions, kept as evidence.
    """
    _not_empty(conditions)
    if observed is not None and math.isnan(observed):
        return _certificate(Verdict.UNKNOWN, limits={"observed": "nan"})
    failed = [name for name, met in conditions.items() if not met]
    found = {"observed": observed, "evidence": figures or {}}
    if failed:
        witness = {"failed": failed, **(figures or {})}
        return _certificate(Verdict.REFUTED, witness=witness, **found)
    return _certificate(Verdict.HOLDS_NUMERICALLY, **found)


def refuted(violation: float, *, beyond: float, witness: Mapping[str, Any]) -> Certificate:
    """REFUTED if ``witness`` misses the statement by more than ``beyond``, else UNKNOWN."""
    if violation > beyond:
        return _certificate(Verdict.REFUTED, observed=violation, witness=witness)
    limits = {"violation": str(violation), "needed": beyond}
    return _certificate(Verdict.UNKNOWN, limits=limits)


def shown(difference: float, *, beyond: float, case: Mapping[str, Any]) -> Certificate:
    """ARGUED if the one ``case`` shows a difference of more than ``beyond``, else UNKNOWN.

    For statements that one case decides: something is not always so, or depends on something.
    """
    if difference > beyond:
        return _certificate(Verdict.ARGUED, observed=difference, evidence={"case": dict(case)})
    limits = {"difference": str(difference), "needed": beyond}
    return _certificate(Verdict.UNKNOWN, limits=limits)


def identical(residual: sympy.Expr | int) -> Certificate:
    """ARGUED if the symbolic ``residual`` is zero. Another one may be zero in disguise: UNKNOWN.

    Raises:
        TypeError: if the residual is a boolean, which is not a difference of two expressions.
    """
    if isinstance(residual, (bool, BooleanAtom)):
        raise TypeError(
            f"identical: expected 'residual', the difference of two expressions, got {residual}."
        )
    zero = residual == 0
    return _certificate(
        Verdict.ARGUED if zero else Verdict.UNKNOWN,
        level=REAL,
        assumptions=("sympy simplifies correctly",),
        limits={} if zero else {"residual": str(residual)[:200]},
    )


def argued(
    hypotheses: Mapping[str, bool],
    *,
    observed: float | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Certificate:
    """ARGUED: the argument on record, whose ``hypotheses`` were checked, exactly or in the code.

    One that fails leaves the statement open: UNKNOWN.

    Args:
        figures: numbers that belong to the hypotheses, kept as evidence.
    """
    _not_empty(hypotheses)
    failed = [name for name, met in hypotheses.items() if not met]
    return _certificate(
        Verdict.UNKNOWN if failed else Verdict.ARGUED,
        level=REAL,
        observed=observed,
        evidence={"hypotheses": list(hypotheses), **(figures or {})},
        limits={"failed": failed} if failed else {},
    )


def unknown(what_it_takes: str) -> Certificate:
    """UNKNOWN, of a statement that nothing here decides."""
    return _certificate(Verdict.UNKNOWN, limits={"scale": what_it_takes})


def _not_empty(conditions: Mapping[str, bool]) -> None:
    if not conditions:
        raise ValueError("expected at least one condition, got none: nothing was checked.")


def _certificate(
    verdict: Verdict, *, level: dsf.certify.Level = FLOAT, **found: Any
) -> Certificate:
    return Certificate(claim="", method="", verdict=verdict, level=level, **found)
