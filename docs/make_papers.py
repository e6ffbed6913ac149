"""Decide every statement of and about the papers and write ``papers.md`` and ``ten_results.md``.

    python docs/make_papers.py

Statements, quotes and notes come from ``papers/``, verdicts and cases from the checks, counts from
both.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from docs.ten_results import ten_results  # noqa: E402
from papers import ALL, MEANINGS, PAPERS, Outcome, Standing, Table, decide_all, plain  # noqa: E402

MAX_CASE = 400
SHARED = "MLA-8 and MLA-30 have one"
TABLES = {
    Table.PAPER: "the paper says",
    Table.SLIP: "a slip of the pen",
    Table.CODE: "what released code does",
    Table.OWN: "a result of this project",
}
VERDICTS = {
    "ARGUED": "holds by symbols, by exact arithmetic, by a short argument whose hypotheses are "
    "checked, or by one case where one case is enough. The argument is given behind *rests on*: a "
    "reader has to accept it, since no program reads arguments. It is not less than a proof on "
    "paper; `PROVED` is only the word of `dsf.certify` for what its checker has accepted",
    "HOLDS_NUMERICALLY": "measured on the cases that the check names, or true of printed numbers; "
    "no proof for others",
    "REFUTED": "a sentence that a paper was seen to state does not hold as stated. The case is one "
    "that anybody can recompute, and the row says what stands",
    "UNKNOWN": "open, with what it would take: a text that was not read, or training that is out "
    "of reach here",
    "confirmed": "of a misprint or a slip of the pen: the check sees it. It decides nothing about "
    "the paper",
}
WORDS = {
    "ARGUED": "holds, argument",
    "HOLDS_NUMERICALLY": "holds, measured",
    "REFUTED": "does not hold",
    "UNKNOWN": "open",
    "confirmed": "confirmed",
}
"""How a verdict is shown to a reader."""
FILTER = """
<style>
.statements { width: 100%; border-collapse: collapse; font-size: 0.8rem; }
.statements td { padding: 0.25rem 0.5rem; vertical-align: top;
  border-top: 1px solid var(--color-background-border); }
.statements td:first-child { white-space: nowrap; }
.statements details { overflow-wrap: anywhere; }
.statements tr[hidden] { display: none; }
.filters select { font: inherit; margin-right: 1rem; }
</style>
<script>
document.addEventListener("DOMContentLoaded", () => {
  const choices = [...document.querySelectorAll(".filters select")];
  const rows = [...document.querySelectorAll(".statements tr[id]")];
  const show = () => {
    for (const row of rows)
      row.hidden = choices.some((one) => one.value && row.dataset[one.name] !== one.value);
    document.querySelector(".filters output").value =
      `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  for (const choice of choices) choice.addEventListener("change", show);
  const open = () => document.querySelector(location.hash || "#none")
    ?.querySelector("details")?.setAttribute("open", "");
  addEventListener("hashchange", open);
  show();
  open();
});
</script>
"""


EXPERIMENTS = {
    "dynamical_systems/experiments/recall/accuracy_by_state": (
        "Associative recall with 32 tokens: queries answered against the state, three seeds"
    ),
    "dynamical_systems/experiments/tasks/accuracies": (
        "Small versions of three tasks of MAD and of the list operations of the Long Range Arena"
    ),
    "in_line/experiments/digits/masking": (
        "Small vision transformers on digits: accuracy when tokens are hidden"
    ),
    "in_line/experiments/windows/accuracies": (
        "The same with windows, hybrids, and zero-sum attention as an encoder"
    ),
    "meta_linear/experiments/conditions/figure": (
        "Which conditions of MetaLA each layer of the library meets, found by perturbation"
    ),
    "zero_sum/experiments/ablation/ablation": (
        "Zero-sum attention with its orders switched on and off"
    ),
}
"""Captions of our own small experiments, which decide no row, by the path of a figure."""


def main() -> None:
    """Write both pages, one statement after the other on the way."""
    outcomes = []
    for outcome in decide_all(ALL):
        outcomes.append(outcome)
        print(f"{outcome.seconds:6.2f} s  {outcome.statement.id:7} {outcome.word}", flush=True)
    (HERE / "papers.md").write_text(page(outcomes), encoding="utf-8")
    (HERE / "ten_results.md").write_text(ten_results(), encoding="utf-8")


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the whole page as Markdown."""
    parts = [
        "# What the papers say, and what holds",
        f"**{headline(outcomes)}**",
        f"{len(outcomes)} statements of and about six papers, each decided by a program: "
        "`python -m papers` runs them all in a clone of the repository, `python -m papers MLA-8` "
        "shows one with its sentence, verdict, reason and witness. Only a sentence that a paper "
        "was seen to state is ever refuted. See also [ten results worth knowing](ten_results.md) "
        "and, for authors, [how to object](papers_for_authors.md). Written by "
        "`python docs/make_papers.py`.",
        counts(outcomes),
        "```{raw} html\n" + FILTER + filters() + rows(outcomes) + "\n```",
        "## Experiments\n",
        "Trained here at a size that suits a CPU; the README in each folder has the tables, what "
        "agrees with the papers and what does not.",
        "```{raw} html\n<details><summary>Six figures</summary>\n```",
        *(
            f"```{{figure}} ../papers/{path}.png\n:alt: {caption}\n\n{caption}: "
            f"`papers/{path.rpartition('/')[0]}`\n```"
            for path, caption in EXPERIMENTS.items()
        ),
        "```{raw} html\n</details>\n```",
        "## Verdicts\n",
        "\n".join(f"{WORDS[word]}\n: `{word}`: {meaning}.\n" for word, meaning in VERDICTS.items()),
        "## How it is known that somebody says so\n",
        "\n".join(f"`{standing}`\n: {meaning}.\n" for standing, meaning in MEANINGS.items()),
        "## The texts\n",
        "\n".join(
            f"{name}\n: {paper}. Read: {paper.read}. Not read: {paper.unread}.\n"
            for name, paper in PAPERS.items()
        ),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def headline(outcomes: Sequence[Outcome]) -> str:
    """Say how many of the statements that were checked against the text hold."""
    checked = [
        outcome
        for outcome in outcomes
        if outcome.statement.table is Table.PAPER and outcome.statement.standing is Standing.STATED
    ]
    words = Counter(outcome.word for outcome in checked)
    fallen = [outcome.statement.id for outcome in checked if outcome.word == "REFUTED"]
    links = ", ".join(f'<a href="#{id}">{id}</a>' for id in fallen)
    return (
        f"Of {words.total()} statements that were checked against the text, {words['ARGUED']} hold "
        f"by symbols or a checked argument, {words['HOLDS_NUMERICALLY']} on the cases tried, "
        f"{words['UNKNOWN']} are open here, and {len(fallen)} do not hold as stated: {links}, on "
        f"three independent witnesses ({SHARED})."
    )


def counts(outcomes: Iterable[Outcome]) -> str:
    """Return the table of verdicts by voice."""
    found = Counter((outcome.statement.table, outcome.word) for outcome in outcomes)
    heads = ["whose", *WORDS.values(), "rows"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for table, voice in TABLES.items():
        many = [found[table, word] for word in VERDICTS]
        cells = [voice, *(str(count or "") for count in many), str(sum(many))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def filters() -> str:
    """Return the three choices over the table."""

    def select(name: str, words: Iterable[str]) -> str:
        options = "".join(
            f'<option value="{word}">{WORDS.get(word, word)}</option>' for word in words
        )
        return (
            f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select>'
            "</label>"
        )

    choices = select("paper", PAPERS) + select("table", Table) + select("verdict", VERDICTS)
    return f'<p class="filters">{choices}<output></output></p>\n'


def rows(outcomes: Sequence[Outcome]) -> str:
    """Return one row per statement: id, verdict, sentence; all else unfolds under the sentence."""
    lines = ['<table class="statements"><tbody>']
    for outcome in outcomes:
        statement = outcome.statement
        lines.append(
            f'<tr id="{statement.id}" data-paper="{statement.paper}" '
            f'data-table="{statement.table}" data-verdict="{outcome.word}">'
            f'<td><a href="#{statement.id}">{statement.id}</a></td>'
            f"<td>{WORDS[outcome.word]}</td>"
            f"<td><details><summary>{escape(statement.statement)}</summary>{details(outcome)}"
            f"</details></td></tr>"
        )
    return "\n".join([*lines, "</tbody></table>"])


def details(outcome: Outcome) -> str:
    """Return sentence, conditions, how it was decided, and the case that decides it."""
    statement, found = outcome.statement, outcome.witness
    near = "" if statement.table in (Table.PAPER, Table.SLIP) else "nearest: "
    quote = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(statement.quote))
    parts = {
        "Whose": f"{TABLES[statement.table]}; {statement.standing}",
        "Sentence": f"{near}“{quote}”" if quote else "",
        "Place": escape(statement.place),
        "Conditions": escape("; ".join(statement.hypotheses)),
        "Added here": escape("; ".join(statement.added)),
        "Reason": escape(outcome.reason),
        "What stands": escape(statement.stands),
        "Witness": f"<code>{escape(case(found))}</code>" if found else "",
    }
    return "<br>".join(f"<b>{head}:</b> {text}" for head, text in parts.items() if text)


def case(facts: Any) -> str:
    """Return a witness with four digits; ``python -m papers --json`` has them all."""
    text = json.dumps(_rounded(plain(facts)), ensure_ascii=False)
    return text if len(text) <= MAX_CASE else text[:MAX_CASE].rsplit(" ", 1)[0] + " …"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
