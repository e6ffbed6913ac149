"""``dsf intervene``: what a model says with some of its token mixing changed.

Edits are typed, ``cut layers=*.3.* heads=2 key=5``. Their names, fields and what these hold are
read off the dataclasses of ``dsf.edits``, which also check the values.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import chain, product
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from dsf.cli import options as shared
from dsf.cli.command import Answer, Run, Work
from dsf.cli.early_checks import check_call, check_file
from dsf.cli.terminal import part, print_heat_map, print_table, stage
from dsf.inspection.choice import Chosen, parsed
from dsf.interventions.edits import KINDS, Edit, Tokens, from_json
from dsf.report.escaping import escaped

if TYPE_CHECKING:
    from dsf.cli.run_model import Opened

OTHER = "other"
"""The name of the run on --other-text or --other-ids."""
MAX_RUNS = 100_000
"""Runs that are made of one edit."""
EXAMPLE = "'cut layers=*.3.* heads=2 key=5'"
TOKEN_FIELDS = ("query", "key", "token", "from_")
AXES_OF_A_MATRIX = 2
ONE_ROW = 2
"""Axes of a classifier's logits: one row for every sample."""


def intervene(
    model: shared.Checkpoint,
    *,
    edit: Annotated[
        list[str] | None,
        'A change, such as "cut layers=*.3.* heads=2 key=5"; may be given several times.',
    ] = None,
    asked: shared.Asked,
    prompt: shared.Prompt,
    second: shared.OtherInput,
    top: shared.Top = 5,
    sweep: Annotated[bool, "Try every edit in a run of its own."] = False,
    each: Annotated[
        str | None,
        "With --sweep: one run for each layer, head or token that these fields name, such "
        "as layers,heads or key.",
    ] = None,
    resume: Annotated[
        Path | None, "With --sweep: a file for finished runs, one a line; continues where it ended."
    ] = None,
    loading: shared.Loading,
) -> Work:
    """Run MODEL with edited token mixers, and say what changes in its next token.

    Later layers compute their coefficients anew from the edited outputs. An edit is a name with
    fields:

    \b
      cut layers=*.3.* heads=2 key=5       no token reads token 5 there
      cut layers=3 query=9 key=0:4        token 9 does not read tokens 0 to 3
      scale layers=3 factor=0.5            edges times a factor; also query=, key=
      window layers=3 width=8              only the last 8 tokens are read
      sink layers=3                        the first token is not read
      negative layers=3                    negative weights are zero
      ablate layers=3 heads=0,2            the response of these heads is zero
      mean layers=3                        or its mean over the tokens; over=other: there
      forget layers=3 token=9              nothing passes from before token 9
      protect layers=3 key=5 from=9        token 9 erases nothing of what token 5 left
      reduce layers=3 token=9 order=4      at most 4 numbers pass
      round-state layers=3 bits=4          the state is rounded after every token
      map-from layers=3                    the map of the run on --other-text
      value-from layers=3 tokens=5         its values
      state-from layers=3 token=9          its state

    \b
    layers= takes numbers, ranges, names and patterns. For softmax attention renormalise=yes masks
    the scores instead, so that the other weights of the row grow. --layers keeps all edits to
    these layers, and --heads to these heads where they name none.

    Example: dsf intervene FOLDER --text "The capital of France is" --edit "ablate layers=3 heads=2"
    --target " Paris" --against " London"

    With --sweep every edit has a run of its own, and the answer lists by how much each moves the
    logit of --target, strongest first. --each makes many edits of one that names several
    layers, heads or tokens.

    \b
      --sweep --each layers,heads --edit "ablate layers=0:30 heads=0:9"     270 runs: which head?
      --sweep --each layers --edit "window layers=0:30 width=8"             30 runs: which layer?
      --sweep --each key --edit "cut layers=*.3.* key=0:40"                40 runs: which token?

    Short inputs share batches. A sweep of an hour is safe with --resume sweep.jsonl: stopped, it
    continues where it ended, and refuses the file of another model, input, target or list of edits.
    """
    tokens = asked.tokens(prompt)
    if sweep and tokens is None:
        raise ValueError("--sweep compares effects on a logit: expected its token as --target.")
    if not sweep and (each, resume) != (None, None):
        raise ValueError("--each and --resume are for a sweep: add --sweep, or leave them out.")
    if resume is not None:
        check_file(resume, "--resume")
    edits = [typed_edit(words) for words in edit or ()]
    if not edits:
        raise ValueError(f"expected an edit, got none. Give --edit {EXAMPLE}.")
    other = second.prompt()
    taken = (getattr(one, field, None) for one in edits for field in ("other", "over"))
    if (OTHER in taken) != (other is not None):
        raise ValueError(
            "--other-text and --other-ids: expected with, and only with, edits that take a map, "
            "values or a state from another run, such as 'state-from layers=3 token=9'."
        )
    if each is not None:
        edits = [one for several in edits for one in spread(several, each)]
    facts = check_call(model, prompt, loading)
    facts.check_asked(asked, prompt)
    if other is not None:
        facts.check_input(other)
    for one in edits:
        facts.check_choice(one.layer, getattr(one, "heads", None))
        check_places(one, prompt.length)

    def work(run: Run) -> Answer:
        from dsf.cli.run_model import inspect_opened, open_checkpoint

        texts = [token for token in tokens or () if isinstance(token, str)]
        texts += () if other is None else other.texts
        opened = open_checkpoint(model, prompt, run, loading, others=texts)
        at, sources = opened.place(asked.position), {}
        if other is not None:
            options = shared.Inspecting(dtype=loading.dtype)
            sources[OTHER] = inspect_opened(opened.on(other), options)
        where = {"layers": asked.layers, "heads": asked.heads, "sources": sources}
        if sweep and tokens is not None:
            return _sweep(opened, edits, tokens, at, {"resume": resume, **where}, top)
        return _intervene(opened, edits, tokens, at, where, top)

    return work


def _intervene(
    opened: "Opened",
    edits: Sequence[Edit],
    tokens: shared.Target | None,
    position: int,
    where: dict[str, Any],
    top: int,
) -> Answer:
    from dsf.attribution.targets import measured
    from dsf.interventions import intervene as run_edited

    loaded = opened.loaded
    result = run_edited(loaded.model, edits=edits, input_ids=opened.ids, **where)
    if result.clean.ndim not in (ONE_ROW, ONE_ROW + 1):
        raise ValueError(
            f"{loaded.identity}: expected logits, got a tensor of the sizes "
            f"{tuple(result.clean.shape)}. Use dsf.intervene in Python."
        )
    is_class = result.clean.ndim == ONE_ROW
    rows = [each[0] if is_class else each[0, position] for each in (result.clean, result.output)]
    clean, changed = (opened.likeliest(row, top, named=not is_class) for row in rows)
    effect: dict[str, Any] | None = None
    if tokens is not None:
        runs = result.clean.double(), result.output.double()
        number = measured(*tokens, position, runs[0], loaded.tokenizer)
        before, after = (number(each).item() for each in runs)
        name = escaped(shared.target_in_words(tokens))
        effect = {"target": name, "clean": before, "changed": after, "effect": after - before}

    def show() -> None:
        for edit in result.edits:
            print(_worded(edit, opened))
        print(f"edited: {', '.join(layer.name for layer in result.layers)}")
        print(f"after token {opened.token(position)}")
        rows = [
            tuple(
                text
                for token in pair
                for text in (repr(token["token"]), f"{token['probability']:.3g}")
            )
            for pair in zip(clean, changed, strict=True)
        ]
        print_table(("clean", "probability", "changed", "probability"), rows)
        if effect is not None:
            print(
                f"{effect['target']}: clean {effect['clean']:+.4g}, changed "
                f"{effect['changed']:+.4g}, effect {effect['effect']:+.4g}"
            )

    facts = {
        "model": escaped(loaded.identity),
        "edits": [edit.to_json() for edit in result.edits],
        "edited": [escaped(layer.name, most=500) for layer in result.layers],
        "position": position,
        "clean": clean,
        "changed": changed,
        "effect": effect,
    }
    return Answer(facts=facts, show=show, notes=opened.notes)


def _sweep(
    opened: "Opened",
    edits: Sequence[Edit],
    tokens: shared.Target,
    position: int,
    options: dict[str, Any],
    top: int,
) -> Answer:
    from dsf.attribution.targets import measured
    from dsf.interventions import intervene, sweep
    from dsf.interventions.sweeps import in_json

    stage(f"running {len(edits)} edits")
    given: dict[str, Any] = {"input_ids": opened.ids, "tokenizer": opened.loaded.tokenizer}
    logits = intervene(opened.loaded.model, **given).clean.double()
    number = measured(*tokens, position, logits, opened.loaded.tokenizer)
    clean, begun, done = number(logits)[0].item(), monotonic(), list[int]()

    def progress(so_far: int, count: int) -> None:
        done.append(so_far)
        part(f"{so_far} of {count} edits", so_far, count)

    found = sweep(
        opened.loaded.model,
        edits=edits,
        target=tokens[0],
        against=tokens[1],
        position=position,
        progress=progress,
        **given,
        **options,
    )
    effects, rate = found[:, 0].tolist(), len(done) / max(monotonic() - begun, 1e-9)
    name = shared.target_in_words(tokens)
    facts = {
        "model": escaped(opened.loaded.identity),
        "position": position,
        "target": escaped(name),
        "clean": in_json(clean),
        "runs": [
            {
                "edits": [edit.to_json()],
                "effect": in_json(effect),
                "changed": in_json(clean + effect),
            }
            for edit, effect in zip(edits, effects, strict=True)
        ],
        "made": len(done),
        "rate": rate,
    }

    def show() -> None:
        print(f"{name} after token {opened.token(position)}, clean {clean:+.4g}")
        if (drawn := heat_map(edits, effects)) is not None:
            down, across, names, others, matrix = drawn
            print(f"{down} downwards, {across} across; 9 is {max(map(abs, effects)):.3g}")
            print_heat_map(names, others, matrix)
        sizes = [math.inf if math.isnan(effect) else abs(effect) for effect in effects]
        rows = [
            (f"{effects[at]:+.4g}", f"{clean + effects[at]:+.4g}", _worded(edits[at], opened))
            for at in sorted(range(len(edits)), key=lambda at: -sizes[at])[:top]
        ]
        print_table(("effect", "changed", "edit"), rows)
        earlier = f", {len(edits) - len(done)} of them were in the file"
        pace = f"{rate:.2g} a second{earlier if len(done) < len(edits) else ''}"
        said = pace if done else "all of them were in the file"
        print(f"{len(edits)} runs, strongest first; {said}")

    return Answer(facts=facts, show=show, notes=opened.notes)


def heat_map(
    edits: Sequence[Edit], effects: Sequence[float]
) -> tuple[str, str, list[str], list[str], list[list[float]]] | None:
    """Two fields, their values, and the effect of every pair; None unless each is tried once."""
    if len({type(edit) for edit in edits}) > 1:
        return None
    values = {each.name: [getattr(edit, each.name) for edit in edits] for each in fields(edits[0])}
    several = {name: found for name, found in values.items() if len(set(map(repr, found))) > 1}
    if len(several) != AXES_OF_A_MATRIX:
        return None
    (down, first), (across, second) = several.items()
    rows, columns = (list(dict.fromkeys(map(str, found))) for found in (first, second))
    places = [(str(one), str(other)) for one, other in zip(first, second, strict=True)]
    if len(set(places)) != len(places) or len(places) != len(rows) * len(columns):
        return None
    at = dict(zip(places, effects, strict=True))
    return down, across, rows, columns, [[at[row, column] for column in columns] for row in rows]


def _worded(edit: Edit, opened: "Opened") -> str:
    places = [
        opened.token(value % opened.ids.shape[1])
        for name in TOKEN_FIELDS
        if isinstance(value := getattr(edit, name, None), int)
    ]
    return f"{edit!r}{' ' * bool(places)}{', '.join(places)}"


# Edits as a person types them


def typed_edit(words: str) -> Edit:
    """Parse one edit.

    >>> typed_edit("cut layers=*.3.* heads=2 key=5")
    Cut(layer=['*.3.*'], heads=[2], key=5)
    """
    where = f"--edit {words!r}"
    try:
        name, *parts = shlex.split(words)
    except ValueError:
        raise ValueError(
            f"{where}: expected the name of an edit and its fields, such as {EXAMPLE}, got an open "
            "quote or nothing."
        ) from None
    plain = {kind.lower(): kind for kind in KINDS}
    kind = plain.get(name.replace("-", "").replace("_", "").lower(), name)
    record: dict[str, Any] = {"edit": kind}
    for each in parts:
        field, sign, value = each.partition("=")
        field = {"layers": "layer", "from": "from_"}.get(field, field)
        if not (sign and value):
            raise ValueError(f"{where}: expected field=value, got {each!r}.")
        if field in record:
            raise ValueError(f"{where}: expected {field!r} once, got it twice.")
        record[field] = _value(kind, field, value)
    return _edit(record, where)


def _value(kind: str, field: str, word: str) -> Any:
    """What a word says in a field; the word itself where the field cannot hold it."""
    holds = {each.name: each.type for each in fields(KINDS[kind])} if kind in KINDS else {}
    if holds.get(field) in (Chosen, Tokens):
        several = parsed(word)
        return several[0] if holds[field] == Tokens and len(several) == 1 else several or word
    if holds.get(field) is bool:
        return {"yes": True, "true": True, "no": False, "false": False}.get(word.lower(), word)
    if holds.get(field) in (int, float, int | None, int | str):
        try:
            return shared.real(word) if holds[field] is float else shared.whole(word)
        except ValueError:
            return word
    return word


def _edit(record: dict[str, Any], where: str) -> Edit:
    """The edit of a record, with the other run named where it needs one."""
    try:
        edit = from_json(record)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('edits: ')}") from None
    for each in fields(edit):
        value = getattr(edit, each.name)
        if any(map(shared.is_empty, _listed(value))):
            raise ValueError(
                f"{where}: {each.name!r} has an empty range. Give an end that is one more than "
                "the last that is wanted, as in 0:4 for the first four."
            )
        if each.name in ("other", "over") and value not in (None, OTHER):
            raise ValueError(f"{where}: {each.name!r}: expected {OTHER!r}, got {value!r}.")
    named: dict[str, Any] = {"other": OTHER} if hasattr(edit, "other") else {}
    return replace(edit, **named)


def check_places(edit: Edit, steps: int | None) -> None:
    """Check that the tokens of an edit are some of the input; ranges may reach beyond it."""
    for field in ("samples", "tokens", *TOKEN_FIELDS):
        size = 1 if field == "samples" else steps
        numbers = [each for each in _listed(getattr(edit, field, None)) if isinstance(each, int)]
        wrong = [each for each in numbers if size is not None and not -size <= each < size]
        if size is not None and wrong:
            raise ValueError(
                f"the edit {type(edit).__name__}: {field!r}: expected a number from 0 to "
                f"{size - 1}, got {wrong[0]}."
            )


def spread(edit: Edit, typed: str) -> list[Edit]:
    """Return one edit for every choice of one layer, head or token of each field in ``typed``.

    >>> spread(typed_edit("ablate layers=0,1 heads=2"), "layers")
    [Ablate(layer=0, heads=[2]), Ablate(layer=1, heads=[2])]
    """
    words = [part.strip() for part in typed.split(",")]
    names = ["layer" if word == "layers" else word for word in words]
    if len(set(names)) < len(names):
        raise ValueError(f"--each: expected every field once, got {typed!r}.")
    choices = [_choices(edit, name) for name in names]
    count = math.prod(sum(map(len, parts)) for parts in choices)
    if count > MAX_RUNS:
        raise ValueError(f"--each: expected at most {MAX_RUNS} runs of one edit, got {count}.")
    every: Any = product(*map(chain.from_iterable, choices))
    return [replace(edit, **dict(zip(names, chosen, strict=True))) for chosen in every]


def _choices(edit: Edit, name: str) -> list[Sequence[int | str]]:
    kinds = {each.name: each.type for each in fields(edit)}
    named = getattr(edit, name) if kinds.get(name) in (Chosen, Tokens) else None
    if named is None:
        raise ValueError(
            f"--each: expected {name!r} in the edit {edit!r}, got none. Name it, such as "
            f"{name}=0:4, or leave it out."
        )
    choices: list[Sequence[int | str]] = []
    for value in _listed(named):
        if not isinstance(value, slice):
            choices.append([value])
            continue
        start, stop = value.start or 0, value.stop
        if stop is None or start < 0 or stop <= start:
            raise ValueError(
                f"--each: expected {name!r} with two ends that count from 0, such as 0:4, got "
                f"{value!r}."
            )
        choices.append(range(start, stop, value.step or 1))
    return choices


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
