"""Decide every claim and write ``claims.md`` and ``claims_changes.md``.

    python docs/make_claims.py

Statements, quotes and notes come from ``dsf.claims``, verdicts and cases from the checks, counts
from both.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dsf.claims import ALL, PAPERS, Claim, Outcome, Standing, Table, check_all
from dsf.claims.claim import MEANINGS
from dsf.claims.records import plain, reason, witness

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from docs.worth_knowing import worth_knowing  # noqa: E402

PAGE, CHANGES = HERE / "claims.md", HERE / "claims_changes.md"
BEFORE = HERE / "claims_before.json"
LONGEST_CASE = 400
TABLES = {
    Table.PAPER: (
        "What the papers say",
        "Statements of the papers, each with the sentence, its place and its conditions. Where "
        "only a review, a caption or the authors outside the paper were read, the column "
        "*standing* says so.",
    ),
    Table.SLIP: (
        "Misprints and slips",
        "They decide nothing about a paper and get no verdict word; *confirmed* means that the "
        "check sees the slip.",
    ),
    Table.CODE: (
        "What released code does",
        "Each row names repository, commit and file. A property of code is not a property of the "
        "paper that it goes with.",
    ),
    Table.OWN: (
        "Results and readings of this project",
        "Nobody else is known to say these. Where a sentence of a paper is near, it is quoted with "
        "the details; the row is still ours.",
    ),
}
VERDICTS = """`ARGUED`
: holds by symbols, by exact arithmetic, by a short argument whose hypotheses are checked, or by one
  case where one case is enough ("not every", "depends on"). The argument stands behind *rests on*:
  a reader has to accept it, since no checker reads arguments. `PROVED`, the word of `dsf.certify`
  for what its checker has accepted, does not occur here.

`HOLDS_NUMERICALLY`
: measured on the cases that the check names, or true of printed numbers; no proof for others.

`REFUTED`
: a sentence that a paper was seen to state does not hold as stated. The case is one that anybody
  can recompute, and the row says what stands. Only rows of the first table can be refuted.

`UNKNOWN`
: open, with what it would take: a text that was not read, or training that is out of reach here.
"""


def main() -> None:
    """Write both pages, one claim after the other on the way."""
    outcomes = []
    for outcome in check_all(ALL):
        outcomes.append(outcome)
        print(f"{outcome.seconds:6.2f} s  {outcome.claim.id:7} {outcome.certificate}", flush=True)
    PAGE.write_text(page(outcomes), encoding="utf-8")
    CHANGES.write_text(changes(outcomes), encoding="utf-8")


def headline(outcomes: Sequence[Outcome]) -> str:
    """Of how many statements that were checked against the text how many do not hold."""
    words = Counter(
        outcome.word
        for outcome in outcomes
        if outcome.claim.table is Table.PAPER and outcome.claim.standing is Standing.STATED
    )
    checked, fallen, unknown = words.total(), words["REFUTED"], words["UNKNOWN"]
    measured = words["HOLDS_NUMERICALLY"]
    return (
        f"Of {checked} statements that were checked against the text, {fallen} do not hold as "
        f"stated; {words['ARGUED']} hold by symbols or a checked argument, {measured} on the cases "
        f"tried, and {unknown} are open here."
    )


def page(outcomes: Sequence[Outcome]) -> str:
    """The whole page as Markdown."""
    parts = [
        "# What the papers say, and what stands",
        f"**{headline(outcomes)}** {_fallen(outcomes)}",
        f"This page has {len(outcomes)} statements of and about six papers, each decided by a "
        "program: `dsf claims` runs them all, and `dsf claims MLA-8` shows one with its sentence, "
        "verdict, reason and witness. There are four tables with four voices, and only a sentence "
        "that a paper was seen to state is ever refuted. Authors and readers who disagree find "
        "[here](claims_for_authors.md) how to object and what would change a verdict; "
        "[what became of every older row](claims_changes.md) is listed too. Written by "
        "`python docs/make_claims.py`.",
        _counts(outcomes),
        worth_knowing(),
        f"## The words\n\nVerdicts:\n\n{VERDICTS}",
        "Standing, how it is known that somebody says so:\n",
        "\n".join(f"`{standing}`\n: {meaning}.\n" for standing, meaning in MEANINGS.items()),
        "## The texts\n",
        "\n".join(
            f"{name}\n: {paper}. Read: {paper.read}. Not read: {paper.unread}.\n"
            for name, paper in PAPERS.items()
        ),
    ]
    for table, (title, told) in TABLES.items():
        parts += [f"## {title}", told]
        for letters, paper in PAPERS.items():
            rows = [o for o in outcomes if o.claim.table is table and o.claim.paper == letters]
            if rows:
                parts += [f"### {letters}: {paper.title} — {title.lower()}", _rows(rows)]
                parts += ["\n".join(_details(outcome) for outcome in rows)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _fallen(outcomes: Sequence[Outcome]) -> str:
    """Links to the refuted rows."""
    ids = [o.claim.id for o in outcomes if o.word == "REFUTED"]
    return f"Those that do not hold are {', '.join(ids[:-1])} and {ids[-1]}."


def _counts(outcomes: Iterable[Outcome]) -> str:
    found = Counter((outcome.claim.table, outcome.word) for outcome in outcomes)
    words = ("ARGUED", "HOLDS_NUMERICALLY", "REFUTED", "UNKNOWN", "confirmed")
    lines = [
        _line(["table", *(f"`{word}`" for word in words[:-1]), "confirmed", "rows"]),
        "|---" * 7 + "|",
    ]
    for table, (title, _) in TABLES.items():
        counts = [found[table, word] for word in words]
        lines.append(_line([title, *(str(count or "") for count in counts), str(sum(counts))]))
    return "\n".join(lines)


def _rows(outcomes: Sequence[Outcome]) -> str:
    slips = outcomes[0].claim.table is Table.SLIP
    heads = ["id", "statement", "where", "standing", "checked" if slips else "verdict"]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for outcome in outcomes:
        claim = outcome.claim
        word = outcome.word if slips else f"`{outcome.word}`"
        where = "" if claim.table is Table.OWN else claim.place
        cells = _text(claim.statement), _text(where), claim.standing.value
        lines.append(_line([claim.id, *cells, word]))
    return "\n".join(lines)


def _details(outcome: Outcome) -> str:
    """The sentence, its conditions, how the claim was decided, and the case that decides it."""
    claim = outcome.claim
    said = [f"- **{claim.id}**:"]
    if claim.quote:
        near = "" if claim.table in (Table.PAPER, Table.SLIP) else f"Nearest ({claim.place}): "
        said.append(_text(f"{near}“{claim.quote}”"))
    if claim.hypotheses:
        said.append(_text(f"Conditions: {'; '.join(claim.hypotheses)}."))
    said.append(_text(reason(outcome)))
    if claim.stands:
        said.append(f"**What stands:** {_text(claim.stands)}")
    found = witness(outcome)
    if found:
        said.append(f"Witness: {_code(found)}.")
    return " ".join(said)


def changes(outcomes: Sequence[Outcome]) -> str:
    """What became of every row of the one table that there was before."""
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    now = {outcome.claim.id: outcome for outcome in outcomes}
    lines = [_line(["id", "was", "is now", "verdict", "in the table", "why"]), "|---" * 6 + "|"]
    for id, old in before.items():
        new = now[id]
        same = old["statement"] == new.claim.statement
        wording = "the same wording" if same else _text(new.claim.statement)
        was = f"{_text(old['statement'])} `{old['verdict']}`, {old['standing']}"
        lines.append(_line([id, was, wording, _word(new), _where(new.claim), old["reason"]]))
    added = [outcome for id, outcome in now.items() if id not in before]
    fresh = [_line(["id", "statement", "verdict", "in the table"]), "|---" * 4 + "|"]
    fresh += [
        _line([o.claim.id, _text(o.claim.statement), _word(o), _where(o.claim)]) for o in added
    ]
    return (
        "\n\n".join(
            [
                "# What became of every claim",
                "There was one table of 118 claims, and 41 of them were red. Most of those "
                "refuted sentences that no paper was seen to state, or left out a condition. This "
                "page says for every id where it is now, with which words and which verdict, and "
                "why; ids never change. Written by `python docs/make_claims.py` from "
                "`docs/claims_before.json`.",
                "\n".join(lines),
                f"## Rows that were added\n\n{len(added)} rows.",
                "\n".join(fresh),
            ]
        )
        + "\n"
    )


def _word(outcome: Outcome) -> str:
    return outcome.word if outcome.claim.table is Table.SLIP else f"`{outcome.word}`"


def _where(claim: Claim) -> str:
    return f"{TABLES[claim.table][0].lower()}, {claim.standing}"


def _text(words: str) -> str:
    """An index is no emphasis."""
    return words.replace("_", chr(92) + "_")


def _code(facts: Any) -> str:
    text = json.dumps(_rounded(plain(facts)), ensure_ascii=False)
    return (
        f"`{text if len(text) <= LONGEST_CASE else text[:LONGEST_CASE].rsplit(' ', 1)[0] + ' …'}`"
    )


def _rounded(value: Any) -> Any:
    """Four digits: this is to be read; ``dsf claims --json`` has them all."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    main()
