"""Certificates on injectivity: whether different queries get different rows of weights.

- ``margin``: a lower bound on the smallest singular value of the keys with a column of ones.
- ``linear_injective``: normalised linear attention is not injective; the witness is two queries.
- ``injective``: softmax rows are injective exactly when ``[keys, 1]`` has full column rank.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates.certificate import Certificate, Level, Verdict
from dsf.certificates.exact import (
    LARGER_PRIME,
    fractions_of,
    independent_rows,
    integer_row,
    null_vector,
)
from dsf.certificates.issuing import Proposal, Where, issued, on_the_processor

ROWS = 512


@on_the_processor
def margin(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    folder: Where = None,
) -> Certificate:
    """Certify a lower bound on the smallest singular value of ``[keys, 1]`` up to ``first_row``.

    The rank alone is not conclusive, because rounding makes almost every matrix full rank:
    injectivity needs a margin above the rounding error of the keys. With a float64 Cholesky factor
    R of ``AᵀA - s² I`` and the exact residual E, the square is at least ``s² - |E|``. At most 512
    rows are used, spread over the tokens; more could only raise the value. UNKNOWN below about 1e-7
    of the norm, where float64 finds no factor; ``observed`` is then the float64 value.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens or leaves fewer rows than columns.
    """
    row = len(key) - 1 if first_row is None else first_row
    return issued(_margin(key, row), folder)


def _margin(key: Tensor, row: int) -> Proposal:
    """The claim with the largest bound that a float64 factor leaves, or UNKNOWN."""
    tokens, width = key.shape
    if not width <= row < tokens:
        raise ValueError(
            f"margin: 'first_row' must lie between {width} and {tokens - 1}, so that there are as "
            f"many keys as columns, but it is {row}."
        )
    chosen = torch.linspace(0, row, min(row + 1, max(ROWS, width + 1))).long().unique().tolist()
    matrix = torch.cat([key[chosen].double(), key.new_ones(len(chosen), 1).double()], dim=-1)
    finite = bool(key.isfinite().all())
    observed = float(torch.linalg.svdvals(matrix)[-1]) if finite else None
    proposal = Proposal(
        name="margin",
        verdict=Verdict.UNKNOWN,
        tensors={"key": key},
        method="Cholesky factor of the shifted Gram matrix, exact residual",
        parameters={"first_row": row, "bound": 0.0},
        evidence={"rows": chosen},
        observed=observed,
        limits={"search": "no float64 factor leaves a positive bound"},
    )
    if observed is None or observed <= 0:
        return proposal
    return _bounded(proposal, matrix, observed)


def _bounded(proposal: Proposal, matrix: Tensor, observed: float) -> Proposal:
    """The proposal with the first shift below the observed value that gives a positive bound."""
    gram = matrix.mT @ matrix
    identity = torch.eye(len(gram), dtype=gram.dtype)
    for share in (1 - 1e-6, 1 - 1e-3, 0.9, 0.5):
        shift = observed * share
        factor, failed = torch.linalg.cholesky_ex(gram - shift**2 * identity, upper=True)
        if int(failed):
            continue
        residual = float(torch.linalg.matrix_norm(gram - shift**2 * identity - factor.mT @ factor))
        rounding = 4 * len(matrix) * torch.finfo(gram.dtype).eps * float(gram.diagonal().sum())
        left = shift**2 - residual - rounding
        if left > 0:
            return replace(
                proposal,
                verdict=Verdict.PROVED,
                tensors={**proposal.tensors, "factor": factor},
                evidence={**proposal.evidence, "shift": shift},
                parameters={**proposal.parameters, "bound": left**0.5},
                bound=left**0.5,
                limits={},
            )
    return proposal


FeatureMap = Literal["identity", "relu", "elu_plus_one"]


@on_the_processor
def linear_injective(
    key: Float[Tensor, "tokens key"],
    *,
    feature_map: FeatureMap,
    row: int | None = None,
    folder: Where = None,
) -> Certificate:
    """Refute that normalised linear attention gives different queries different rows.

    A row depends on the features of its query only up to a positive factor, so two queries with
    proportional features have the same row: ``2 q`` for the identity and ReLU, ``2 q + 1`` for
    elu + 1 with ``q >= 0``. The witness is such a pair as fractions, checked exactly. UNKNOWN only
    if the sum of the row is zero for every query that was tried.

    Args:
        key: the keys of one head.
        feature_map: ``identity``, ``relu`` or ``elu_plus_one``.
        row: the row the witness is about; the last by default.

    Source: InLine attention, arXiv:2412.06590; the pairs are derived.

    Raises:
        ValueError: for a feature map without a known collision, or a row outside the keys.
    """
    known = ("identity", "relu", "elu_plus_one")
    if feature_map not in known:
        raise ValueError(
            f"linear_injective: collisions are known for {', '.join(known)}, not for "
            f"'{feature_map}'. With more features than key entries there need not be a collision."
        )
    chosen = key.shape[0] - 1 if row is None else row
    if not 0 <= chosen < key.shape[0]:
        raise ValueError(
            f"linear_injective: 'row' must lie between 0 and {key.shape[0] - 1}, but it is {row}."
        )
    proposal = Proposal(
        name="linear_injective",
        verdict=Verdict.UNKNOWN,
        tensors={"key": key},
        method="two queries with proportional features",
        parameters={"feature_map": feature_map},
        limits={"tried": "unit vectors and the sum of the keys"},
    )
    if not bool(key.isfinite().all()):
        return issued(proposal, folder)
    query = _query(key[: chosen + 1], feature_map)
    if query is None:
        return issued(proposal, folder)
    other = [2 * part + 1 if feature_map == "elu_plus_one" else 2 * part for part in query]
    witness = {
        "row": chosen,
        "query": query,
        "other": other,
    }
    refuted = replace(proposal, verdict=Verdict.REFUTED, witness=witness, limits={})
    return issued(refuted, folder)


def _query(key: Tensor, feature_map: FeatureMap) -> list[Fraction] | None:
    """A query for which the sum of the row is not zero, or None."""
    width = key.shape[-1]
    if feature_map == "elu_plus_one":
        return [Fraction(1, 2)] * width
    rows = [fractions_of(part) for part in key]
    if feature_map == "relu":
        rows = [[max(part, Fraction(0)) for part in row] for row in rows]
    sums = [sum(column, Fraction(0)) for column in zip(*rows, strict=True)]
    lead = next((k for k, value in enumerate(sums) if value), None)
    if lead is None:
        return None
    return [Fraction(int(k == lead)) for k in range(width)]


@on_the_processor
def injective(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    sink: bool = False,
    level: Level = Level.DATA,
    uncertainty: float = 0.0,
    folder: Where = None,
) -> Certificate:
    """Certify that from ``first_row`` on different queries get different softmax rows.

    Row i over the keys 0 ... i is injective in its query exactly when ``[keys, 1]`` has full column
    rank; with a sink, when the keys have. Scale, additive bias and a common rotation of all queries
    change nothing. Rows with too few keys cannot be injective; the default is the first row that
    can be, ``key width`` (one less with a sink). For full attention take ``first_row=tokens - 1``.

    PROVED by rows whose determinant is not zero, REFUTED by an exact integer direction
    of the query that changes no weight. This is about the stored numbers only: a low-rank product
    has full rank once it is rounded. At ``Level.REAL`` the claim is about every key matrix within
    ``uncertainty`` of the stored one (in Frobenius norm; a bound on the rounding in the computation
    of the keys), and it is PROVED only by a certified smallest singular value above that.

    Source: InLine attention, arXiv:2412.06590; the condition is sharp.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens, ``uncertainty`` is below zero, or
            ``level`` is ``Level.FLOAT``: large queries saturate a floating-point softmax, so two of
            them give the same row.
    """
    if level is Level.FLOAT:
        raise ValueError(
            "injective: 'level' cannot be FLOAT, since a floating-point softmax saturates and "
            "gives two large queries the same row. Use Level.DATA or Level.REAL."
        )
    if level is Level.REAL:
        if not uncertainty >= 0:
            raise ValueError(
                f"injective: 'uncertainty' must be at least 0, but it is {uncertainty}."
            )
        return _within_uncertainty(key, first_row, sink, uncertainty, folder)
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
        method="rows of full rank, or an exact null vector",
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
    if null is None:  # dependent modulo the first prime only
        chosen = independent_rows(rows, needed, LARGER_PRIME)
        return issued(_proved(proposal, chosen) if len(chosen) == needed else proposal, folder)
    return issued(_refuted(proposal, row, [*null, 0] if sink else null), folder)


def _within_uncertainty(
    key: Tensor, first_row: int | None, sink: bool, uncertainty: float, where: Where
) -> Certificate:
    """The claim for every key matrix near the stored one, from the factor of a margin."""
    row = key.shape[-1] if first_row is None else first_row
    undecided = Proposal(
        name="injective_within",
        verdict=Verdict.UNKNOWN,
        tensors={"key": key},
        method="certified smallest singular value of [keys, 1]",
        parameters={"first_row": row, "distance": uncertainty},
        assumptions=(
            f"the keys differ from the stored ones by at most {uncertainty:g} (Frobenius)",
        ),
    )
    if sink or row >= len(key):
        reason = "with a sink no margin is certified" if sink else "too few keys for a margin"
        return issued(replace(undecided, limits={"margin": reason}), where)
    found = _margin(key, row)
    if found.bound is None or not found.bound > uncertainty:
        small = {"margin": "the certified margin is too small"}
        return issued(replace(undecided, observed=found.observed, limits=small), where)
    decided = replace(
        undecided,
        verdict=Verdict.PROVED,
        tensors=found.tensors,
        evidence=found.evidence,
        bound=found.bound,
        observed=found.observed,
    )
    return issued(decided, where)


def _proved(proposal: Proposal, rows: list[int]) -> Proposal:
    return replace(proposal, verdict=Verdict.PROVED, evidence={"rows": sorted(rows)})


def _refuted(proposal: Proposal, row: int, null: list[int]) -> Proposal:
    witness = {"row": row, "null": null}
    return replace(proposal, verdict=Verdict.REFUTED, witness=witness)
