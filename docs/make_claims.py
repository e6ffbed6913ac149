"""Decide every claim of the founding papers and write ``claims.md``.

    python docs/make_claims.py

Nothing on that page is typed by hand: statements and notes come from ``dsf.claims``, the rest from
the checks.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dsf.claims import ALL, PAPERS, Outcome, check_all
from dsf.claims.records import plain

PAGE = Path(__file__).resolve().with_name("claims.md")
LONGEST_WITNESS = 400
HEAD = """# What the papers claim

Every claim of the founding papers and of two that follow them, decided by `dsf claims`, those found
false included. Written by `python docs/make_claims.py`; nothing here is typed by hand.

`PROVED`: by symbols, exact arithmetic, or a short argument whose hypotheses are checked.
`HOLDS_NUMERICALLY`: measured on the cases that the check states, no proof for others. `REFUTED`:
the witness is a case that anybody can recompute. `UNKNOWN`: what it would take is said. *Standing*
says how sure it is that the paper makes the claim: second-hand ones were seen in reviews or
summaries only, derived ones were worked out here. A refuted claim is worded as it is believed, not
as it should be.
"""


def main() -> None:
    """Write the page, one claim after the other on the way."""
    outcomes = []
    for outcome in check_all(ALL):
        outcomes.append(outcome)
        print(f"{outcome.seconds:6.2f} s  {outcome.claim.id:7} {outcome.certificate}", flush=True)
    PAGE.write_text(page(outcomes), encoding="utf-8")


def page(outcomes: list[Outcome]) -> str:
    """The whole page as Markdown."""
    counts = Counter(outcome.certificate.verdict.value for outcome in outcomes)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    parts = [HEAD, f"Of {len(outcomes)} claims: {told}.\n"]
    for letters, title in PAPERS.items():
        of_paper = [outcome for outcome in outcomes if outcome.claim.paper == letters]
        parts.append(f"## {letters}: {title}\n")
        parts.append("| id | claim | standing | verdict | observed |\n|---|---|---|---|---|")
        parts += [f"| {' | '.join(_cells(outcome))} |" for outcome in of_paper]
        remarks = [remark for outcome in of_paper for remark in _remarks(outcome)]
        parts += ["", *remarks, ""]
    return "\n".join(parts).rstrip() + "\n"


def _cells(outcome: Outcome) -> tuple[str, ...]:
    claim, certificate = outcome.claim, outcome.certificate
    observed = "" if certificate.observed is None else f"{certificate.observed:.3g}"
    verdict = certificate.verdict.value
    return claim.id, _cell(claim.statement), claim.standing.value, verdict, observed


def _remarks(outcome: Outcome) -> list[str]:
    """How a claim was decided, and what a reader should know about it."""
    claim, certificate = outcome.claim, outcome.certificate
    said = [f"- **{claim.id}**: {certificate.method}."]
    if claim.note:
        said.append(claim.note)
    if certificate.witness:
        said.append(f"Witness: {_code(certificate.witness)}.")
    said += [f"Rests on: {assumption}." for assumption in certificate.assumptions]
    if certificate.limits:
        said.append(f"Limits: {_code(certificate.limits)}.")
    return [" ".join(said)]


def _code(facts: Any) -> str:
    text = json.dumps(_rounded(plain(facts)), ensure_ascii=False)
    return f"`{text if len(text) <= LONGEST_WITNESS else text[:LONGEST_WITNESS] + ' …'}`"


def _rounded(value: Any) -> Any:
    """Four digits: this is to be read; ``dsf claims --json`` has them all."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
