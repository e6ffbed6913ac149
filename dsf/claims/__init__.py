"""Statements of and about the founding papers, each with a check that decides it.

Four tables, four voices: what the papers say, their slips, what their released code does, and
results of this project. ``ALL`` is the only list. An id never changes; what a check measures
depends on the recipe in its file, the verdict on record does not.
"""

from collections.abc import Iterator

from dsf.claims import (
    coefficient_dynamics,
    dynamical_systems,
    eigenvalues,
    in_line,
    meta_linear,
    zero_sum,
)
from dsf.claims.claim import Claim, Outcome, Standing, Table, decide
from dsf.claims.papers import PAPERS, Paper

__all__ = [
    "ALL",
    "PAPERS",
    "Claim",
    "Outcome",
    "Paper",
    "Standing",
    "Table",
    "check_all",
    "chosen",
    "decide",
]


def _number(claim: Claim) -> tuple[int, int]:
    return list(PAPERS).index(claim.paper), int(claim.id.split("-")[1])


ALL: tuple[Claim, ...] = tuple(
    sorted(
        (
            *dynamical_systems.CLAIMS,
            *coefficient_dynamics.CLAIMS,
            *eigenvalues.CLAIMS,
            *in_line.CLAIMS,
            *meta_linear.CLAIMS,
            *zero_sum.CLAIMS,
        ),
        key=_number,
    )
)


def chosen(
    *, ids: tuple[str, ...] = (), paper: str | None = None, table: str | None = None
) -> tuple[Claim, ...]:
    """The claims with these ids, of this paper, in this table; all of them without any.

    Args:
        ids: such as ``INL-9``; any case.
        paper: the letters in front of the number, such as ``INL``; any case.
        table: whose voice, such as ``paper`` or ``own``: a value of :class:`Table`; any case.

    Raises:
        ValueError: for an id, a paper or a table that does not exist.
    """
    wanted = [id.upper() for id in ids]
    known = {claim.id for claim in ALL}
    strangers = [id for id in wanted if id not in known]
    if strangers:
        raise ValueError(
            f"no claim is called {', '.join(strangers)}. Ids look like {ALL[0].id}; "
            f"'dsf claims --list' shows all."
        )
    if paper is not None and paper.upper() not in PAPERS:
        raise ValueError(f"no paper is called '{paper}'. Choose from {', '.join(PAPERS)}.")
    if table is not None and table.lower() not in list(Table):
        raise ValueError(f"no table is called '{table}'. Choose from {', '.join(Table)}.")
    return tuple(
        claim
        for claim in ALL
        if (not wanted or claim.id in wanted)
        and (paper is None or claim.paper == paper.upper())
        and (table is None or claim.table == table.lower())
    )


def check_all(claims: tuple[Claim, ...] = ALL) -> Iterator[Outcome]:
    """Decide one claim after the other.

    Example:
        >>> from dsf import claims
        >>> for outcome in claims.check_all(claims.chosen(ids=("INL-9",))):
        ...     print(outcome.claim.id, outcome.certificate.verdict.value, outcome.as_recorded)
        INL-9 ARGUED True
    """
    return map(decide, claims)
