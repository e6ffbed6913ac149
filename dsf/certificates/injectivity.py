"""Whether softmax rows tell queries apart, decided exactly."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from dsf.certificates.certificate import Certificate, Verdict
from dsf.certificates.exact import PRIME, independent_rows, integer_row, null_vector
from dsf.certificates.issuing import Proposal, issued


def injective(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    sink: bool = False,
    folder: Path | None = None,
) -> Certificate:
    """Certify that from ``first_row`` on different queries get different softmax rows.

    Row i over the keys 0 ... i is injective in its query exactly when ``[keys, 1]`` has full column
    rank; with a sink, when the keys have. Scale, additive bias and a common rotation of all queries
    change nothing. Rows with too few keys cannot be injective; the default is the first row that
    can, ``key width`` (one less with a sink). For full attention take ``first_row=tokens - 1``.

    PROVED by rows whose determinant is a unit modulo a prime, REFUTED by an exact integer direction
    that moves no weight. About the stored numbers only: a product of low rank that was rounded has
    full rank, so ``dsf.certify.margin`` belongs beside it.

    Source: InLine attention, arXiv:2412.06590; the condition is sharp.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens.
    """
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


def _proved(proposal: Proposal, rows: list[int]) -> Proposal:
    evidence = {"rows": rows, "modulus": f"{PRIME:x}"}
    return Proposal(**{**vars(proposal), "verdict": Verdict.PROVED, "evidence": evidence})


def _refuted(proposal: Proposal, row: int, null: list[int]) -> Proposal:
    witness = {"row": row, "null": [f"{value:x}" for value in null]}
    return Proposal(**{**vars(proposal), "verdict": Verdict.REFUTED, "witness": witness})
