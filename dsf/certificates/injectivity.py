"""Whether softmax rows tell queries apart, decided exactly."""

from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dsf.certificates.certificate import Certificate, Level, Verdict
from dsf.certificates.exact import PRIME, independent_rows, integer_row, null_vector
from dsf.certificates.issuing import Proposal, issued
from dsf.certificates.margins import margin


def injective(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    sink: bool = False,
    level: Level = Level.DATA,
    uncertainty: float = 0.0,
    folder: Path | None = None,
) -> Certificate:
    """Certify that from ``first_row`` on different queries get different softmax rows.

    Row i over the keys 0 ... i is injective in its query exactly when ``[keys, 1]`` has full column
    rank; with a sink, when the keys have. Scale, additive bias and a common rotation of all queries
    change nothing. Rows with too few keys cannot be injective; the default is the first row that
    can, ``key width`` (one less with a sink). For full attention take ``first_row=tokens - 1``.

    PROVED by rows whose determinant is a unit modulo a prime, REFUTED by an exact integer direction
    that moves no weight. That is about the stored numbers only: a product of low rank that was
    rounded has full rank. At ``Level.REAL`` the claim is about every key matrix within
    ``uncertainty`` of the stored one (Frobenius norm; the rounding of whatever made the keys), and
    it is PROVED only by a certified smallest singular value above that.

    Source: InLine attention, arXiv:2412.06590; the condition is sharp.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens, or ``level`` is ``Level.FLOAT``:
            large queries saturate the softmax of a program, so two of them give one row.
    """
    if level is Level.FLOAT:
        raise ValueError(
            "injective: 'level' cannot be FLOAT, since a program's softmax saturates and gives "
            "two large queries the same row. Ask at DATA or REAL."
        )
    if level is Level.REAL:
        return _despite(key, first_row, sink, uncertainty, folder)
    tokens, width = key.shape
    needed = width if sink else width + 1
    row = min(needed, tokens) - 1 if first_row is None else first_row
    if not 0 <= row < tokens:
        raise ValueError(
            f"injective: 'first_row' must lie between 0 and {tokens - 1}, but it is {first_row}."
        )
    proposal = Proposal(
        name="injective",
        verdict=Verdict.UNKNOWN,
        tensors={"key": key},
        method="rank modulo 2^61 - 1, or an exact null vector",
        parameters={"first_row": row, "sink": sink},
    )
    if not bool(key.isfinite().all()):
        return issued(proposal, folder)
    extra = () if sink else (1,)
    rows = [integer_row(part, extra) for part in key[: row + 1]]
    chosen = independent_rows(rows, needed)
    if len(chosen) == needed:
        return issued(_proved(proposal, chosen), folder)
    null = null_vector(rows)
    if null is None:  # dependent modulo the prime only: never seen, and no verdict
        return issued(proposal, folder)
    return issued(_refuted(proposal, row, [*null, 0] if sink else null), folder)


def _despite(
    key: Tensor, first_row: int | None, sink: bool, uncertainty: float, folder: Path | None
) -> Certificate:
    """The claim for every key matrix near the stored one, from a certified margin."""
    row = key.shape[-1] if first_row is None else first_row
    claim = (
        f"from row {row} on, different queries get different softmax rows, for all keys within "
        f"{uncertainty:g} of the stored ones"
    )
    assumption = f"the keys differ from the stored ones by at most {uncertainty:g} (Frobenius)"
    held: Certificate | None = None
    if not sink and row < len(key):
        held = margin(key, first_row=row, folder=folder)
    proved = held is not None and held.bound is not None and held.bound > uncertainty
    reason = "with a sink no margin is certified" if sink else "the certified margin is too small"
    return Certificate(
        claim=claim,
        verdict=Verdict.PROVED if proved else Verdict.UNKNOWN,
        level=Level.REAL,
        method="certified smallest singular value of [keys, 1]",
        bound=None if held is None else held.bound,
        observed=None if held is None else held.observed,
        assumptions=(assumption,),
        limits={} if proved else {"margin": reason},
    )


def _proved(proposal: Proposal, rows: list[int]) -> Proposal:
    evidence = {"rows": rows, "modulus": f"{PRIME:x}"}
    return replace(proposal, verdict=Verdict.PROVED, evidence=evidence)


def _refuted(proposal: Proposal, row: int, null: list[int]) -> Proposal:
    witness = {"row": row, "null": [f"{value:x}" for value in null]}
    return replace(proposal, verdict=Verdict.REFUTED, witness=witness)
