"""The results as a page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]
OUTCOMES = ("read", "probed", "part", "refused", "wrong", "missed", "error")
LONGEST = 160

HEAD = """# Models that dsf was not written for

This page says what `dsf.inspect(model, ...)` makes of models of public packages, called as a user
would call it: nothing is named by hand, no adapter is passed, no port is given. It is written by
`make any-code`, which installs the packages of a pinned list into an environment of their own, runs
every model in a process of its own, in a small configuration with a fixed seed, and judges every
answer with code that shares nothing with dsf. Initial weights that hide what a module does (zeros,
factors near zero) are replaced by ordinary ones. All numbers are in `any_code.json`, next to
this page.

## Outcomes

A model is counted by its mixers: those that were read, those that dsf lists with a reason and that
ran, and those that the judge found and dsf did not.

| outcome | of a model |
|---|---|
| read | every mixer was read, and every map is all that its module does to tokens |
| probed | the same, and at least one map was measured with unit values |
| part | some maps were read; other mixers, or the rest of a module, are listed with reasons |
| refused | nothing was read; the error says which modules mix tokens and why they were not read |
| wrong | a map that was called exact is not what the module does |
| missed | tokens meet in a module that was neither read nor listed |
| error | an exception that is not an error of dsf, or no answer within the limits |

## How it is judged

*Are the maps right?* In the run of the model, the operation is looked for that is given the very
numbers that dsf calls the values of a map, wherever they lie in whatever order. There, the value of
one token in one head is replaced, and what that changes in the response is compared with the column
of the map, for three columns of every map drawn by chance. The column *compared* counts the maps
for which this was possible; where values or response are not a tensor of the run (inside of torch's
own LSTM, or of a recurrence that is written in another form) there is nothing to replace.
A map may be one *given its factors*: a norm is linear in its input while its deviation is held, as
attention is in its values while its weights are. The judge replaces the values where the factor is
not made of them; a fused norm it computes by its own formula in double precision, (x - mean of x)
over the deviation that x had before.

*Are the columns tokens?* Tokens of the model's first sample are replaced one after the other, with
everything before held. No two of them may move values of one column, and none those of several
samples. (Where a family has a short convolution of its own before the values, as Mamba does, only
the latter is asked: `layer.map()` begins behind it, `layer.whole` in front of it.)

*Is a mixer missing?* The responses of all maps that were called exact are held as they were, and so
are the outputs of all modules that dsf lists. Two tokens that are replaced in turn must then never
move the same number, whatever enters or leaves a module of the model, up to the place where
the model pools its tokens or makes fewer of them. Where a model has stages of fewer
and fewer tokens, those of every stage are replaced.
"""


def page(records: Sequence[Record]) -> str:
    """The whole page as Markdown."""
    return "\n".join([HEAD, _totals(records), _table(records), _reasons(records)]).rstrip() + "\n"


def _totals(records: Sequence[Record]) -> str:
    counts = Counter(record["outcome"] for record in records)
    packages = {record["package"] for record in records}
    good = counts["read"] + counts["probed"]
    maps = sum(record.get("exact", 0) + record.get("probed", 0) for record in records)
    compared = sum(record.get("right", 0) for record in records)
    commits = Counter(record["commit"] for record in records if record.get("commit"))
    measured = ", ".join(f"{count} at `{commit}`" for commit, count in commits.most_common())
    measured = (
        f"Models by the commit of dsf at which they were measured: {measured}.\n\n"
        if measured
        else ""
    )
    head = " | ".join(OUTCOMES)
    line = " | ".join(str(counts[name]) for name in OUTCOMES)
    return (
        "## Totals\n\n"
        f"{len(records)} models of {len(packages)} packages; {good} "
        f"({good / max(len(records), 1):.0%}) were read or probed in full. Of {maps} maps that "
        f"were called exact, {compared} could be compared with what replaced values move.\n\n"
        f"{measured}"
        f"| {head} |\n|{'---|' * len(OUTCOMES)}\n| {line} |\n"
    )


def _table(records: Sequence[Record]) -> str:
    lines = [
        "## Every model\n",
        "*exact* and *probed* count maps, *compared* those of them that the judge could compare; "
        "*listed* counts modules with a reason. *passes* is the number of calls of modules without "
        "children in the inspection, over those of one forward pass; *seconds* is the processor "
        "time of the inspection alone.\n",
        "| package | model | outcome | exact | probed | compared | listed | passes | seconds |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        package = f"{record['package']} {record.get('version', '')}".strip()
        numbers = [record.get(name, "") for name in ("exact", "probed", "right")]
        numbers.append(len(record["listed"]) if "listed" in record else "")
        numbers += [record.get(name, "") for name in ("passes", "seconds")]
        cells = [package, record["model"], record["outcome"], *map(str, numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _reasons(records: Sequence[Record]) -> str:
    lines = ["## Why a model is not read in full\n"]
    for record in records:
        said = _said(record)
        if said:
            lines += [f"**{record['package']}: {record['model']}** ({record['outcome']})", ""]
            lines += [f"- {_cut(one)}" for one in said] + [""]
    return "\n".join(lines)


def _said(record: Record) -> list[str]:
    if record["outcome"] == "wrong":
        return [f"{name}: {reason}" for name, reason in record["wrong"].items()]
    if record["outcome"] == "missed":
        return [f"tokens meet {place}" for place in record["missed"]]
    if record["outcome"] in ("refused", "error"):
        return [record["reason"]]
    seen: dict[str, str] = {}
    for name, reason in record.get("listed", []):
        seen.setdefault(reason, name)
    return [f"`{name}`: {reason}" for reason, name in seen.items()]


def _cut(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "/")
    return plain if len(plain) <= LONGEST else plain[:LONGEST].rsplit(" ", 1)[0] + " …"
