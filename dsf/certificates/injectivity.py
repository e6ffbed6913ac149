"""Certificates on injectivity: whether different queries get different rows of weights."""

from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec
from math import gcd
from typing import Any

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsf.certificates import certificate, checker

PRIME = (1 << 31) - 1
"""Products of two residues fit into 64 bits."""
LARGER_PRIME = (1 << 521) - 1


def independent_rows(rows: list[list[int]], wanted: int, prime: int = PRIME) -> list[int]:
    """Return the indices of the first rows that are independent modulo a prime, at most ``wanted``.

    Rows that are independent modulo a prime are independent; the converse fails rarely.
    """
    return [index for index, _ in _eliminated(rows, wanted, prime)]


def _eliminated(rows: list[list[int]], wanted: int, prime: int) -> list[tuple[int, int]]:
    """Indices and leading columns of the first rows that are independent modulo ``prime``."""
    dtype = np.int64 if prime <= PRIME else object
    basis: list[tuple[int, int]] = []
    reduced: list[Any] = []
    for index, row in enumerate(rows):
        rest = np.array([value % prime for value in row], dtype=dtype)
        for (_, lead), other in zip(basis, reduced, strict=True):
            if rest[lead]:
                rest = (rest - rest[lead] * other) % prime
        leads = np.flatnonzero(rest)
        if len(leads):
            basis.append((index, int(leads[0])))
            reduced.append(rest * pow(int(rest[leads[0]]), -1, prime) % prime)
        if len(basis) == wanted:
            break
    return basis


def null_vector(rows: list[list[int]]) -> list[int] | None:
    """Return a non-zero integer vector that is orthogonal to every row, or None.

    One unknown is set to one and the others are solved from independent rows. The vector is
    returned only if it is exactly orthogonal to every row, so the result does not depend on the
    prime.
    """
    width = len(rows[0])
    basis = _eliminated(rows, width, PRIME)
    if len(basis) == width:
        return None
    leads = [lead for _, lead in basis]
    free = next(column for column in range(width) if column not in set(leads))
    matrix = [[rows[index][lead] for lead in leads] for index, _ in basis]
    target = [-rows[index][free] for index, _ in basis]
    numerators, denominator = _solved(matrix, target)
    direction = [0] * width
    direction[free] = denominator
    for lead, part in zip(leads, numerators, strict=True):
        direction[lead] = part
    common = gcd(*direction)
    direction = [part // common for part in direction]
    fits = all(sum(map(int.__mul__, row, direction)) == 0 for row in rows)
    return direction if fits else None


def _solved(matrix: list[list[int]], target: list[int]) -> tuple[list[int], int]:
    """Solve ``matrix x = d target`` for integers x and d; the matrix is invertible.

    By python-flint where it is installed (the extra ``proof``), which is faster for wide matrices,
    else by sympy.
    """
    size = len(target)
    if find_spec("flint") is not None:
        from flint import fmpz_mat

        left = fmpz_mat(size, size, [value for row in matrix for value in row])
        found = left.solve(fmpz_mat(size, 1, target)).numer_denom()
        return [int(part) for part in found[0].entries()], int(found[1])
    from sympy import ZZ
    from sympy.polys.matrices import DomainMatrix

    columns = DomainMatrix([[ZZ(value)] for value in target], (size, 1), ZZ)
    square = DomainMatrix([list(map(ZZ, row)) for row in matrix], (size, size), ZZ)
    numerators, denominator = square.solve_den(columns)
    return [int(part) for part in numerators.to_list_flat()], int(denominator)


MIN_ROWS = 512
MAX_GRAM_PRODUCTS = 1 << 22  # rows times squared columns, in integers within a second
MAX_NAMED_COLUMNS = 24  # from which a null vector of generic keys is too long to be worth naming
MAX_NULL_BITS = 13_000  # bits of an integer that a certificate can hold
DIRECTIONS = 1 << 40  # the unit of the entries of a direction that was found in float64


@certificate.claim
def margin(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    folder: certificate.Where = None,
) -> certificate.Certificate:
    """Certify a lower bound on the smallest singular value of ``[keys, 1]`` up to ``first_row``.

    The rank alone is not conclusive, because rounding makes almost every matrix full rank:
    injectivity needs a margin above the rounding error of the keys. With a float64 Cholesky factor
    R of ``AᵀA - s² I`` and the exact residual E, the square is at least ``s² - |E|``. At least 512
    rows are used, and all of them where keys are narrow: those that span most, and others spread
    over the tokens. More could only raise the value. UNKNOWN below about 1e-7 of the norm, where
    float64 finds no factor; ``observed`` is then the float64 value of all rows.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens or leaves fewer rows than columns.
    """
    row = len(key) - 1 if first_row is None else first_row
    return certificate.issued(_margin(key, row), folder)


def _margin(key: Tensor, row: int) -> certificate.Proposal:
    """The claim with the first shift that leaves a factor and a positive bound, or UNKNOWN."""
    tokens, width = key.shape
    if not width <= row < tokens:
        raise ValueError(
            f"margin: 'first_row' must lie between {width} and {tokens - 1}, so that there are as "
            f"many keys as columns, but it is {row}."
        )
    finite = bool(key.isfinite().all())
    whole = torch.cat([key[: row + 1].double(), key.new_ones(row + 1, 1).double()], dim=-1)
    chosen = _spanning(whole) if finite else [0]
    matrix = whole[chosen]
    observed = float(torch.linalg.svdvals(whole)[-1]) if finite else None
    proposal = certificate.Proposal(
        name="margin",
        tensors={"key": key},
        method="Cholesky factor of the shifted Gram matrix, exact residual",
        parameters={"first_row": row, "bound": 0.0},
        evidence={"rows": chosen},
        observed=observed,
        limits={"search": "no float64 factor leaves a positive bound"},
    )
    if observed is None or observed <= 0:
        return proposal
    smallest, gram = float(torch.linalg.svdvals(matrix)[-1]), matrix.mT @ matrix
    identity = torch.eye(len(gram), dtype=gram.dtype)
    rounding = 4 * len(matrix) * torch.finfo(gram.dtype).eps * float(gram.diagonal().sum())
    for share in (1 - 1e-6, 1 - 1e-3, 0.9, 0.5):
        shift = smallest * share
        shifted = gram - shift**2 * identity
        factor, failed = torch.linalg.cholesky_ex(shifted, upper=True)
        if int(failed):
            continue
        residual = float(torch.linalg.matrix_norm(shifted - factor.mT @ factor))
        left = shift**2 - residual - rounding
        if left > 0:
            return certificate.settled(
                proposal,
                None,
                tensors={"key": key, "factor": factor},
                evidence={"rows": chosen, "shift": shift},
                parameters={"first_row": row, "bound": left**0.5},
                bound=left**0.5,
            )
    return proposal


def _spanning(matrix: Tensor) -> list[int]:
    """Rows that span most, one for every column, and others spread over all of them."""
    tokens, columns = matrix.shape
    most = max(MIN_ROWS, columns, MAX_GRAM_PRODUCTS // columns**2)
    spread = torch.linspace(0, tokens - 1, min(tokens, most)).long().tolist()
    if len(spread) == tokens:
        return spread
    pivots = scipy.linalg.qr(matrix.mT.numpy(), mode="r", pivoting=True)[1]
    return sorted({*spread, *pivots[:columns].tolist()})


@certificate.claim
def linear_injective(
    key: Float[Tensor, "tokens key"],
    *,
    feature_map: str,
    row: int | None = None,
    folder: certificate.Where = None,
) -> certificate.Certificate:
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
            f"linear_injective: collisions are known for {', '.join(known)}, not for the "
            f"'feature_map' {feature_map!r}. With more features than key entries there need not be "
            f"a collision."
        )
    chosen = key.shape[0] - 1 if row is None else row
    if not 0 <= chosen < key.shape[0]:
        raise ValueError(
            f"linear_injective: 'row' must lie between 0 and {key.shape[0] - 1}, but it is {row}."
        )
    proposal = certificate.Proposal(
        name="linear_injective",
        tensors={"key": key},
        method="two queries with proportional features",
        parameters={"feature_map": feature_map},
        limits={"tried": "unit vectors and the sum of the keys"},
    )
    if not bool(key.isfinite().all()):
        return certificate.issued(proposal, folder)
    query = _query(key[: chosen + 1], feature_map)
    if query is None:
        return certificate.issued(proposal, folder)
    other = [2 * part + 1 if feature_map == "elu_plus_one" else 2 * part for part in query]
    witness = {"row": chosen, "query": query, "other": other}
    return certificate.issued(certificate.settled(proposal, witness), folder)


def _query(key: Tensor, feature_map: str) -> list[Fraction] | None:
    """A query for which the sum of the row is not zero, or None."""
    width = key.shape[-1]
    if feature_map == "elu_plus_one":
        return [Fraction(1, 2)] * width
    part = certificate.stored(key)
    rows = [part.row(token) for token in range(part.rows)]
    if feature_map == "relu":
        rows = [[max(part, Fraction(0)) for part in row] for row in rows]
    sums = [sum(column, Fraction(0)) for column in zip(*rows, strict=True)]
    lead = next((k for k, value in enumerate(sums) if value), None)
    if lead is None:
        return None
    return [Fraction(int(k == lead)) for k in range(width)]


@certificate.claim
def injective(
    key: Float[Tensor, "tokens key"],
    *,
    first_row: int | None = None,
    sink: bool = False,
    shown: Bool[Tensor, "rows tokens"] | None = None,
    level: certificate.Level = certificate.Level.DATA,
    uncertainty: float = 0.0,
    folder: certificate.Where = None,
) -> certificate.Certificate:
    """Certify that from ``first_row`` on different queries get different softmax rows.

    Row i over the keys 0 ... i is injective in its query exactly when ``[keys, 1]`` has full column
    rank; with a sink, when the keys have. A scale other than zero, an additive bias and a common
    rotation of all queries change nothing. ``shown`` marks the keys that each row reads where it is
    not the keys up to its own, as under a mask or a window: then every row with as many keys as
    columns is decided. Rows with too few keys cannot be injective; the default is the first row
    that can be, ``key width`` (one less with a sink). For full attention take
    ``first_row=tokens - 1``.

    PROVED by rows whose determinant is not zero, REFUTED by an exact integer direction
    of the query that changes no weight. This is about the stored numbers only: a low-rank product
    has full rank once it is rounded. At ``Level.REAL`` the claim is about every key matrix within
    ``uncertainty`` of the stored one (in Frobenius norm; a bound on the rounding in the computation
    of the keys). It is PROVED only by a certified smallest singular value above that, and REFUTED
    by a direction along which keys so near change no score.

    Where keys are fewer than columns, a direction exists by counting: the witness names the row,
    and the direction itself only for narrow keys.

    Source: InLine attention, arXiv:2412.06590; the condition is sharp.

    Raises:
        ValueError: if ``first_row`` lies outside the tokens, ``uncertainty`` is below zero, no row
            of ``shown`` has as many keys as columns, ``shown`` comes with ``first_row`` or at
            another level, or ``level`` is ``Level.FLOAT``: large queries saturate a floating-point
            softmax, so two of them give the same row.
    """
    if level is certificate.Level.FLOAT:
        raise ValueError(
            "injective: 'level' cannot be FLOAT, since a floating-point softmax saturates and "
            "gives two large queries the same row. Use Level.DATA or Level.REAL."
        )
    if shown is not None:
        if level is not certificate.Level.DATA or first_row is not None:
            raise ValueError("injective: 'shown' is decided row by row, at Level.DATA only.")
        return _masked(key, shown, sink, folder)
    tokens, width = key.shape
    needed = width if sink else width + 1
    row = min(needed, tokens) - 1 if first_row is None else first_row
    if not 0 <= row < tokens:
        raise ValueError(
            f"injective: 'first_row' must lie between 0 and {tokens - 1}, but it is {first_row}."
        )
    if level is certificate.Level.REAL:
        if not uncertainty >= 0:
            raise ValueError(
                f"injective: 'uncertainty' must be at least 0, but it is {uncertainty}."
            )
        return _within_uncertainty(key, row, sink, float(uncertainty), folder)
    proposal = certificate.Proposal(
        name="injective",
        tensors={"key": key},
        method="rows of full rank, or an exact null vector",
        parameters={"first_row": row, "sink": sink},
    )
    if not bool(key.isfinite().all()):
        return certificate.issued(proposal, folder)
    part, extra = certificate.stored(key), () if sink else (1,)
    if row + 1 < needed and needed > MAX_NAMED_COLUMNS:
        return certificate.issued(_refuted(proposal, row, []), folder)
    rows = [part.scaled(token, extra)[0] for token in range(row + 1)]
    return certificate.where_conclusive([_by_rank(proposal, rows, row, sink)], proposal, folder)


def _masked(
    key: Tensor, shown: Tensor, sink: bool, folder: certificate.Where
) -> certificate.Certificate:
    """One set of independent keys for every row that shows enough; sets serve many rows."""
    needed = key.shape[-1] + (not sink)
    if not bool((shown.sum(dim=-1) >= needed).any()):
        raise ValueError(f"injective: 'shown' must have a row with at least {needed} keys.")
    proposal = certificate.Proposal(
        name="injective_masked",
        tensors={"key": key, "mask": shown.to(torch.float16)},
        method="keys of full rank for every row, or an exact null vector",
        parameters={"least": needed, "sink": sink},
    )
    if not bool(key.isfinite().all()):
        return certificate.issued(proposal, folder)
    part, extra = certificate.stored(key), () if sink else (1,)
    rows = [part.scaled(token, extra)[0] for token in range(part.rows)]
    sets: list[list[int]] = []
    chosen = []
    for number, row in enumerate(shown):
        seen = row.nonzero().flatten().tolist()
        if len(seen) < needed:
            chosen.append(-1)
            continue
        if not sets or not set(seen).issuperset(sets[-1]):
            latest = seen[::-1]  # a window that moves on shows them longest
            found = independent_rows([rows[place] for place in latest], needed)
            if len(found) < needed:
                null = null_vector([rows[place] for place in seen])
                if null is None or max(map(int.bit_length, null)) > MAX_NULL_BITS:
                    limits = {"row": f"no verdict on the keys of row {number}"}
                    return certificate.issued(replace(proposal, limits=limits), folder)
                refuted = _refuted(proposal, number, [*null, 0] if sink else null)
                return certificate.where_conclusive([refuted], proposal, folder)
            sets.append(sorted(latest[place] for place in found))
            if not checker.is_affordable(len(sets) * needed**3, checker.BITS_OF_PRIMES):
                limits = {"rows": "the rows show too many different sets of keys"}
                return certificate.issued(replace(proposal, limits=limits), folder)
        chosen.append(len(sets) - 1)
    evidence = {"sets": sets, "chosen": chosen}
    proved = certificate.settled(proposal, None, evidence=evidence)
    return certificate.where_conclusive([proved], proposal, folder)


def _by_rank(
    proposal: certificate.Proposal, rows: list[list[int]], row: int, sink: bool
) -> certificate.Proposal:
    """Rows of full rank or a null vector; modulo a second prime if the first one misleads."""
    needed = len(rows[0])
    chosen = independent_rows(rows, needed)
    if len(chosen) == needed:
        return _proved(proposal, chosen)
    null = null_vector(rows)
    if null is not None and max(map(int.bit_length, null)) <= MAX_NULL_BITS:
        return _refuted(proposal, row, [*null, 0] if sink else null)
    if row + 1 < needed:
        return _refuted(proposal, row, [])
    if null is not None:
        return replace(proposal, limits={"null vector": f"more than {MAX_NULL_BITS} bits"})
    chosen = independent_rows(rows, needed, LARGER_PRIME)
    return _proved(proposal, chosen) if len(chosen) == needed else proposal


def _within_uncertainty(
    key: Tensor, row: int, sink: bool, uncertainty: float, where: certificate.Where
) -> certificate.Certificate:
    """The claim for every key matrix near the stored one, from the factor of a margin."""
    undecided = certificate.Proposal(
        name="injective_within",
        tensors={"key": key},
        method="certified smallest singular value of [keys, 1]",
        parameters={"first_row": row, "distance": uncertainty},
        assumptions=(
            f"the keys differ from the stored ones by at most {uncertainty:g} (Frobenius)",
        ),
    )
    if sink:
        reason = {"margin": "with a sink no margin is certified"}
        return certificate.issued(replace(undecided, limits=reason), where)
    if not bool(key.isfinite().all()):
        return certificate.issued(undecided, where)
    if row < key.shape[-1]:
        return certificate.issued(_refuted(undecided, row, []), where)
    found = _margin(key, row)
    if found.bound is None or not found.bound > uncertainty:
        null = _blind_direction(key[: row + 1], uncertainty)
        if null is not None:
            refuted = _refuted(undecided, row, null)
            return certificate.issued(replace(refuted, observed=found.observed), where)
        small = {"margin": "the certified margin is too small"}
        return certificate.issued(replace(undecided, observed=found.observed, limits=small), where)
    decided = certificate.settled(
        undecided,
        None,
        tensors=found.tensors,
        evidence=found.evidence,
        bound=found.bound,
        observed=found.observed,
    )
    return certificate.issued(decided, where)


def _blind_direction(key: Tensor, distance: float) -> list[int] | None:
    """Integers (v, c) with |K v + c| at most the distance times |v|, exactly; None if not found."""
    part = certificate.stored(key)
    rows = [part.scaled(token, (1,))[0] for token in range(part.rows)]
    centred = key.double() - key.double().mean(dim=0)
    direction = torch.linalg.svd(centred).Vh[-1]
    constant = -(key.double() @ direction).mean()
    numbers = torch.cat([direction, constant.reshape(1)]).tolist()
    null = [round(Fraction(part) * DIRECTIONS) for part in numbers]
    limit = Fraction(distance) ** 2 * sum(part * part for part in null[:-1])
    for row in rows:
        limit -= Fraction(sum(map(int.__mul__, row, null)), row[-1]) ** 2
    if limit >= 0 and any(null[:-1]):
        return null
    exact = null_vector(rows)
    return exact if exact is not None and any(exact[:-1]) else None


def _proved(proposal: certificate.Proposal, rows: list[int]) -> certificate.Proposal:
    return certificate.settled(proposal, None, evidence={"rows": sorted(rows)})


def _refuted(proposal: certificate.Proposal, row: int, null: list[int]) -> certificate.Proposal:
    return certificate.settled(proposal, {"row": row, "null": null})
