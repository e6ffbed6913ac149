"""Statements of and about the founding papers, read from the ``statements.toml`` of each paper.

Four tables, four voices: what the papers say, their slips, what their released code does, and
results of this project. An id never changes and is never used again.
"""

import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # lists and wrong calls answer before torch is imported
    from dsf.certificates import Certificate

HERE = Path(__file__).resolve().parent
FOLDERS = (
    "dynamical_systems",
    "coefficient_dynamics",
    "eigenvalues",
    "in_line",
    "meta_linear",
    "zero_sum",
)


class Table(StrEnum):
    """Whose voice a statement has.

    ``PAPER``: a statement of a paper, with the sentence. ``SLIP``: a misprint or a slip of the pen,
    which gets no verdict word. ``CODE``: what released code does. ``OWN``: a result or a reading of
    this project.
    """

    PAPER = "paper"
    SLIP = "slip"
    CODE = "code"
    OWN = "own"


class Standing(StrEnum):
    """How it is known that somebody says so."""

    STATED = "stated"
    AUTHORS = "authors"
    SECOND_HAND = "second-hand"
    CODE = "code"
    OWN = "own"


MEANINGS = {
    Standing.STATED: "the sentence was read in the paper's text",
    Standing.AUTHORS: "the authors say it outside the paper: in a README, a comment in their code "
    "or an answer to a reader",
    Standing.SECOND_HAND: "seen in a public review, a caption or a restatement by others; the "
    "paper's own sentence was not read",
    Standing.CODE: "read in released code, at the commit that is named",
    Standing.OWN: "worked out in this project; nobody else is known to say it",
}
VERDICTS = ("ARGUED", "HOLDS_NUMERICALLY", "REFUTED", "UNKNOWN")
"""Verdicts on record. ``PROVED`` is for what the checker of ``dsf.certify`` has accepted."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper, and which of its texts and programs were read.

    Attributes:
        letters: what the ids of its statements begin with.
        folder: where its statements and checks are.
        unread: what was not read; nothing from there is quoted.
    """

    letters: str
    folder: str
    title: str
    arxiv: str
    read: str
    unread: str

    def __str__(self) -> str:
        return f"{self.title} (arXiv:{self.arxiv})"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement and how it is decided.

    Attributes:
        id: paper and number, such as ``INL-9``.
        statement: what the check decides, as a sentence.
        expected: the verdict on record. The check does not see it. Of a slip it is the verdict on
            the sentence that the slip is there, and is never shown.
        quote: at most one sentence, word for word. Of a row of the tables ``CODE`` and ``OWN`` it
            is the nearest sentence that was found, and not the statement.
        place: where the quote is found, or which file of which commit was read.
        hypotheses: the conditions that go with the quote in its text.
        added: conditions and readings of ours, under which the check decides.
        stands: of a refuted statement, what still holds.
        note: what a reader should know: what the case shows, what is out of reach and why.
        method: how the check decides.
        argument: what an ARGUED verdict rests on, since no program read it.
        open: of a statement without a check, what deciding it would take.

    Raises:
        ValueError: if a refuted row is not a paper's, or lacks sentence, place or what still holds.
    """

    id: str
    table: Table
    statement: str
    standing: Standing
    expected: str
    quote: str = ""
    place: str = ""
    hypotheses: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    stands: str = ""
    note: str = ""
    method: str = ""
    argument: str = ""
    open: str = ""

    def __post_init__(self) -> None:
        if self.expected not in VERDICTS:
            raise ValueError(f"{self.id}: expected one of {VERDICTS}, got '{self.expected}'.")
        if self.expected != "REFUTED":
            return
        if self.table is not Table.PAPER:
            raise ValueError(
                f"{self.id}: 'table' is '{self.table}', but only a paper's own sentence is "
                f"refuted. Word the row as what is so."
            )
        parts = ("quote", "place", "hypotheses", "stands")
        missing = [name for name in parts if not getattr(self, name)]
        if missing:
            raise ValueError(
                f"{self.id}: expected {', '.join(parts)} of a refuted sentence, got no "
                f"{' and no '.join(missing)}."
            )

    @property
    def paper(self) -> str:
        """The letters in front of the number."""
        return self.id.split("-")[0]

    def facts(self) -> dict[str, Any]:
        """Return what is said, by whom and where, and the verdict on record, for JSON."""
        expected = None if self.table is Table.SLIP else self.expected
        return {"paper": self.paper, **asdict(self), "expected": expected}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the check of a statement found, and how many seconds it took."""

    statement: Statement
    certificate: "Certificate"
    seconds: float = field(compare=False)

    @property
    def as_recorded(self) -> bool:
        """Whether the verdict is the one on record."""
        return self.certificate.verdict.value == self.statement.expected

    @property
    def word(self) -> str:
        """The verdict as it is shown: a slip is confirmed or not, and nothing else."""
        if self.statement.table is Table.SLIP:
            return "confirmed" if self.as_recorded else "not confirmed"
        return self.certificate.verdict.value

    @property
    def witness(self) -> Any:
        """The case that decides: the witness of a refutation, or the one case of a proof."""
        return self.certificate.witness or self.certificate.evidence.get("case")

    @property
    def reason(self) -> str:
        """What a reader should know, how the check decided, and what the verdict rests on."""
        certificate = self.certificate
        parts = [self.statement.note, f"checked by: {certificate.method}"]
        parts += [f"rests on: {each}" for each in certificate.assumptions]
        parts += [f"open: {each}" for each in certificate.limits.values()]
        return " ".join(f"{_capitalised(part).rstrip('.')}." for part in map(str, parts) if part)

    def facts(self) -> dict[str, Any]:
        """Return what is said and what its check found, for JSON.

        Of a slip the verdict is None and ``confirmed`` says whether the check saw it; of other
        statements ``confirmed`` is None. A number that is not finite becomes None.
        """
        certificate = self.certificate
        slip = self.statement.table is Table.SLIP
        return self.statement.facts() | {
            "verdict": None if slip else certificate.verdict.value,
            "confirmed": self.as_recorded if slip else None,
            "reason": self.reason,
            "level": certificate.level.value,
            "method": certificate.method,
            "bound": plain(certificate.bound),
            "observed": plain(certificate.observed),
            "witness": plain(self.witness),
            "evidence": plain(certificate.evidence),
            "assumptions": list(certificate.assumptions),
            "limits": plain(certificate.limits),
            "seconds": round(self.seconds, 3),
        }


def _read(folder: str) -> tuple[Paper, list[Statement]]:
    """The paper and its rows: a row is a paper's own sentence unless it names its table."""
    data = tomllib.loads((HERE / folder / "statements.toml").read_text(encoding="utf-8"))
    sentences = tomllib.loads((HERE / folder / "sentences.toml").read_text(encoding="utf-8"))
    statements = []
    for row in data["statement"]:
        table = Table(row.get("table", Table.PAPER))
        standing = Standing.OWN if table is Table.OWN else Standing.STATED
        found = sentences.get(row["id"], {})
        quoted = {"quote": found["sentence"], "place": found["place"]} if found else {}
        parts = {name: tuple(row.get(name, ())) for name in ("hypotheses", "added")}
        kind = {"table": table, "standing": Standing(row.get("standing", standing))}
        statements.append(Statement(**quoted | row | parts | kind))
    return Paper(folder=folder, **data["paper"]), statements


_READ = [_read(folder) for folder in FOLDERS]
PAPERS: dict[str, Paper] = {paper.letters: paper for paper, _ in _READ}
"""The papers, by the letters in front of the numbers of their statements."""
ALL: tuple[Statement, ...] = tuple(row for _, rows in _READ for row in rows)


def chosen(
    *, ids: tuple[str, ...] = (), paper: str | None = None, table: str | None = None
) -> tuple[Statement, ...]:
    """Return the statements with these ids, of this paper, in this table, in any case; or all.

    Raises:
        ValueError: for an id, a paper or a table that does not exist.
    """
    by_id = {statement.id: statement for statement in ALL}
    for id in ids:
        if id.upper() not in by_id:
            raise ValueError(f"{_unknown_id(id)}; 'python -m papers --list' shows all.")
    if paper is not None and paper.upper() not in PAPERS:
        raise ValueError(f"--paper: expected one of {', '.join(PAPERS)}, got '{paper}'.")
    if table is not None and table.lower() not in list(Table):
        raise ValueError(f"--table: expected one of {', '.join(Table)}, got '{table}'.")
    return tuple(
        statement
        for statement in ([by_id[id.upper()] for id in ids] if ids else ALL)
        if (paper is None or statement.paper == paper.upper())
        and (table is None or statement.table == table.lower())
    )


def _unknown_id(id: str) -> str:
    paper = id.upper().partition("-")[0]
    of_paper = [statement.id for statement in ALL if statement.paper == paper]
    if of_paper:
        return (
            f"no statement is called {id!r}. Those of this paper: {of_paper[0]} to {of_paper[-1]}"
        )
    return f"no statement is called {id!r}. Ids look like MLA-8; the papers are {', '.join(PAPERS)}"


def decide(statement: Statement) -> Outcome:
    """Run the check of one statement; without a check it is UNKNOWN."""
    from papers.verdicts import CHECKS, unknown

    import_module(f"papers.{PAPERS[statement.paper].folder}.checks")
    begun = time.perf_counter()
    check = CHECKS.get(statement.id)
    found = check() if check else unknown(statement.open)
    argument = (statement.argument,) if statement.argument else ()
    certificate = replace(
        found,
        claim=statement.statement.rstrip("."),
        method=statement.method if check else "not decided at this scale",
        assumptions=found.assumptions + argument,
    )
    seconds = time.perf_counter() - begun
    return Outcome(statement=statement, certificate=certificate, seconds=seconds)


def decide_all(statements: tuple[Statement, ...] = ALL) -> Iterator[Outcome]:
    """Decide one statement after the other."""
    return map(decide, statements)


def _capitalised(part: str) -> str:
    """A word of the text gets its capital, a Greek letter or a path stays what it is."""
    word = part.split(" ", 1)[0]
    return part[0].upper() + part[1:] if word.isascii() and word.isalpha() else part


def plain(value: Any) -> Any:
    """Return ``value`` in the types that JSON has.

    Raises:
        TypeError: for a tensor, an array or anything else that is not a plain value.
    """
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    raise TypeError(
        f"plain: expected numbers, text, lists and mappings, got {type(value).__name__}. Give "
        f"tensors as lists."
    )
