"""How far keys are from being dependent, with a certified lower bound."""

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates.certificate import Certificate, Verdict
from dsf.certificates.issuing import Proposal, issued

ROWS = 512


def margin(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    folder: Path | None = None,
) -> Certificate:
    """Certify a lower bound on the smallest singular value of ``[keys, 1]`` up to ``first_row``.

    Rank alone misleads: rounding makes everything full rank. A margin above the rounding error of
    what made the keys is what injectivity can rest on. With a float64 Cholesky factor R of
    ``AᵀA - s² I`` and the exact residual E, the square is at least ``s² - |E|``. At most 512 rows
    enter, spread over the tokens: more could only raise the value. UNKNOWN below about 1e-7 of the
    norm, where float64 finds no factor; ``observed`` then carries the float64 value.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens or leaves fewer rows than columns.
    """
    tokens, width = key.shape
    row = tokens - 1 if first_row is None else first_row
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
        parameters={"first_row": row},
        evidence={"rows": chosen},
        observed=observed,
        limits={"search": "no float64 factor leaves a positive bound"},
    )
    if observed is None or observed <= 0:
        return issued(proposal, folder)
    return issued(_bounded(proposal, matrix, observed), folder)


def _bounded(proposal: Proposal, matrix: Tensor, observed: float) -> Proposal:
    """The first shift below the observed value whose factor leaves a bound."""
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
                bound=left**0.5,
                limits={},
            )
    return proposal
