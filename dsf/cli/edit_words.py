"""Edits as a person types them: ``cut layers=*.3.* heads=2 key=5``, or a JSON file of edits.

The names of edits, their fields and what these hold are read off the dataclasses of ``dsf.edits``,
which also check the values.
"""

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from dsf.cli.options import is_empty, read_text, real, whole
from dsf.inspection.choice import parsed
from dsf.interventions.edits import KINDS, Chosen, Edit, Reduce, StateFrom, Tokens, from_json

OTHER = "other"
"""The name of the run on --other-text or --other-ids."""
MAX_RUNS = 100_000
"""Runs that are made of one edit."""
EXAMPLE = "'cut layers=*.3.* heads=2 key=5'"


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
    for part in parts:
        field, sign, value = part.partition("=")
        field = {"layers": "layer", "from": "from_"}.get(field, field)
        if not (sign and value):
            raise ValueError(f"{where}: expected field=value, got {part!r}.")
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
    if holds.get(field) in (int, float, int | None):
        try:
            return real(word) if holds[field] is float else whole(word)
        except ValueError:
            return word
    return word


def filed_edits(path: Path, *, lists: bool = False) -> list[list[Edit]]:
    """Read the edits of every run from a JSON file."""
    where = f"--edits {str(path)!r}"
    try:
        records = json.loads(read_text("--edits", path), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{where}: expected a list of edits, got deeper nesting.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: expected JSON, got {error}.") from None
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    runs = [run if lists and isinstance(run, list) else [run] for run in _listed(records)]
    if not isinstance(records, list) or not all(isinstance(e, dict) for run in runs for e in run):
        raise ValueError(
            f"{where}: expected a list of edits, such as "
            '[{"edit": "Cut", "layer": "*.3.*", "key": 5}]; with --sweep also lists of edits that '
            "act together."
        )
    return [[_edit(record, f"{where}, edit {k}") for record in run] for k, run in enumerate(runs)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an edit; JSON would silently keep the last of two."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected the field {name!r} once, got it twice.")
    return dict(pairs)


def _edit(record: dict[str, Any], where: str) -> Edit:
    """The edit of a record, with the other run named where it needs one."""
    try:
        edit = from_json(record)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('edits: ')}") from None
    for each in fields(edit):
        value = getattr(edit, each.name)
        if any(map(is_empty, _listed(value))):
            raise ValueError(
                f"{where}: {each.name!r} has an empty range. Give an end that is one more than "
                "the last that is wanted, as in 0:4 for the first four."
            )
        if each.name in ("other", "over") and value not in (None, OTHER):
            raise ValueError(f"{where}: {each.name!r}: expected {OTHER!r}, got {value!r}.")
    named: dict[str, Any] = {"other": OTHER} if hasattr(edit, "other") else {}
    return replace(edit, **named)


def takes_from_other(edit: Edit) -> bool:
    return OTHER in (getattr(edit, "other", None), getattr(edit, "over", None))


def check_places(edit: Edit, steps: int | None, steps_there: int | None) -> None:
    """Check that the tokens of an edit are some of the input; ranges may reach beyond it."""
    name = type(edit).__name__
    sizes = [("samples", 1), ("other_token", steps_there)]
    sizes += [(field, steps) for field in ("query", "key", "token", "tokens", "from_")]
    if isinstance(edit, StateFrom) and edit.other_token is None:
        sizes.append(("token", steps_there))
    for field, size in sizes:
        numbers = [each for each in _listed(getattr(edit, field, None)) if isinstance(each, int)]
        wrong = [each for each in numbers if size is not None and not -size <= each < size]
        if size is not None and wrong:
            raise ValueError(
                f"the edit {name}: {field!r}: expected a number from 0 to {size - 1}, got "
                f"{wrong[0]}."
            )
    if steps is not None and isinstance(edit, Reduce) and edit.token % steps == 0:
        raise ValueError(
            "the edit Reduce: 'token': expected one after the first, got 0, before which there is "
            "nothing to remember."
        )
    if steps is not None and isinstance(edit, StateFrom) and edit.token % steps == steps - 1:
        raise ValueError(
            "the edit StateFrom: 'token': expected one before the last, after which no other token "
            "reads the state."
        )


def spread_fields(typed: str) -> tuple[str, ...]:
    """Parse ``--each``: fields that name several things."""
    names = [part.strip() for part in typed.split(",")]
    known = {"layers": "layer", "layer": "layer"}
    known |= {
        each.name: each.name
        for kind in KINDS.values()
        for each in fields(kind)
        if each.name != "layer" and each.type in (Chosen, Tokens)
    }
    for name in names:
        if name not in known or names.count(name) > 1:
            raise ValueError(
                f"--each: expected some of {', '.join(known)}, each once, got {name!r} in "
                f"{typed!r}."
            )
    return tuple(known[name] for name in names)


def spread(run: Sequence[Edit], names: Sequence[str]) -> list[list[Edit]]:
    """Return one run for every choice of one layer, head or token of each field.

    Several edits of one run that have the field choose the same.

    >>> spread([typed_edit("ablate layers=0,1 heads=2")], ("layer",))
    [[Ablate(layer=0, heads=[2])], [Ablate(layer=1, heads=[2])]]
    """
    choices = [list(_choices(run, name)) for name in names]
    count = math.prod(map(len, choices))
    if count > MAX_RUNS:
        raise _too_many(count)

    def narrowed(edit: Edit, chosen: Sequence[int | str]) -> Edit:
        named: dict[str, Any] = {
            name: value
            for name, value in zip(names, chosen, strict=True)
            if getattr(edit, name, None) is not None
        }
        return replace(edit, **named)

    return [[narrowed(edit, chosen) for edit in run] for chosen in product(*choices)]


def _choices(run: Sequence[Edit], name: str) -> Iterator[int | str]:
    named = [value for edit in run if (value := getattr(edit, name, None)) is not None]
    if not named:
        raise ValueError(
            f"--each: expected {name!r} in the edit {run[0]!r}, got none. Add it to the edit, such "
            f"as {name}=0:4, or leave it out of --each."
        )
    if any(other != named[0] for other in named):
        raise ValueError(f"--each: expected one {name!r} in all edits of a run, got several.")
    for value in _listed(named[0]):
        if not isinstance(value, slice):
            yield value
            continue
        start, stop = value.start or 0, value.stop
        if stop is None or start < 0 or stop <= start:
            raise ValueError(
                f"--each: expected {name!r} with two ends that count from 0, such as 0:4, got "
                f"{value!r}."
            )
        numbers = range(start, stop, value.step or 1)
        if len(numbers) > MAX_RUNS:
            raise _too_many(len(numbers))
        yield from numbers


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _too_many(count: int) -> ValueError:
    return ValueError(f"--each: expected at most {MAX_RUNS} runs of one edit, got {count}.")
