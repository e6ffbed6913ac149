"""Edits as a person types them: ``cut layers=*.3.* heads=2 read=5``, or a JSON file of edits.

Both become the records that ``dsf.edits.from_json`` reads. Names and fields are checked here, so
that a wrong word is told before a model is loaded.
"""

import json
import shlex
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from dsf.cli.prompt import read_text
from dsf.cli.typed_numbers import real, whole

Record = dict[str, Any]
OTHER = "other"
"""The name of the run on --other-text or --other-ids."""

EVERY = ("layer", "heads", "samples")
EDITS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Cut": ((), ("written", "read", "renormalise")),
    "Scale": (("factor",), ("written", "read")),
    "Window": (("width",), ("renormalise",)),
    "Sink": ((), ("keep", "renormalise")),
    "Negative": ((), ("keep",)),
    "MapFrom": ((), ("other",)),
    "ValueFrom": ((), ("other", "tokens")),
    "StateFrom": (("token",), ("other", "other_token")),
    "Forget": (("token",), ()),
    "Reduce": (("order", "token"), ()),
    "Ablate": ((), ()),
    "Mean": ((), ("over",)),
}
"""Of every edit the fields that it needs and those that it may have, besides ``EVERY``."""
FROM_OTHER = ("MapFrom", "ValueFrom", "StateFrom")
"""Edits that always take something from the other run."""
NUMBERED = ("heads", "samples", "written", "read", "tokens")


def typed_edit(words: str) -> Record:
    """The record of one edit.

    Raises:
        ValueError: if it is no edit, or one of its fields is missing, unknown or no number.

    >>> typed_edit("cut layers=*.3.* heads=2 read=5")
    {'edit': 'Cut', 'layer': ['*.3.*'], 'heads': [2], 'read': 5}
    """
    try:
        name, *fields = shlex.split(words)
    except ValueError:
        raise ValueError(_form(words, "it is empty or has an open quote")) from None
    record: Record = {"edit": _kind(name)}
    for each in fields:
        field, sign, value = each.partition("=")
        field = "layer" if field == "layers" else field
        if not sign:
            raise ValueError(_form(words, f"{each!r} is no field=value"))
        if field in record:
            raise ValueError(_form(words, f"{_typed(field)} is there twice"))
        read = READ.get(field)
        try:
            record[field] = value if read is None else read(value)
        except ValueError:
            wrong = f"{_typed(field)} is {value!r}; it must be {FORMS[read]}"
            raise ValueError(_form(words, wrong)) from None
    return checked(record, f"--edit {words!r}")


def filed_edits(path: Path) -> list[Record]:
    """The records in a file.

    Raises:
        OSError, ValueError: if it is no JSON list of edits.
    """
    return [_filed(path, str(k), each) for k, each in enumerate(_listed(path))]


def filed_runs(path: Path) -> list[list[Record]]:
    """The records in a file, in which a list of several edits is one run.

    Raises:
        OSError, ValueError: if it is no JSON list of edits or of lists of them.
    """
    runs = []
    for k, run in enumerate(_listed(path)):
        if isinstance(run, list):
            runs.append([_filed(path, f"{k}, {at}", each) for at, each in enumerate(run)])
        else:
            runs.append([_filed(path, str(k), run)])
    return runs


def _listed(path: Path) -> list[Any]:
    text = read_text("--edits", path)
    try:
        records = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"--edits {str(path)!r}: it is nested too deeply for edits.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"--edits {str(path)!r}: it is no JSON: {error}.") from None
    except ValueError as error:
        raise ValueError(f"--edits {str(path)!r}: {error}") from None
    if not isinstance(records, list):
        raise _no_list(path)
    return records


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an edit, of which each may be there once.

    Raises:
        ValueError: if one is there twice, since JSON keeps the last without a word.
    """
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the field {name!r} is there twice. Leave one of them out.")
    return dict(pairs)


def _filed(path: Path, place: str, record: Any) -> Record:
    if not isinstance(record, dict):
        raise _no_list(path)
    return checked(record, f"--edits {str(path)!r}, edit {place}")


def _no_list(path: Path) -> ValueError:
    return ValueError(
        f"--edits {str(path)!r}: it must hold a list of edits, such as "
        '[{"edit": "Cut", "layer": "*.3.*", "read": 5}]; with --sweep also lists of edits that act '
        "together."
    )


def checked(record: Record, where: str) -> Record:
    """``record``, with the other run named where it is needed.

    Raises:
        ValueError: if its name or its fields are not those of an edit.
    """
    name = record.get("edit")
    if not isinstance(name, str) or name not in EDITS:
        raise ValueError(f"{where}: {name!r} is no edit; there are {', '.join(map(_word, EDITS))}.")
    needed, possible = EDITS[name]
    for field in (*needed, "layer"):
        if field not in record:
            shown = "layers" if field == "layer" else field
            raise ValueError(f"{where}: {_word(name)} needs {shown}, such as {EXAMPLES[field]}.")
    known = (*EVERY, *needed, *possible)
    if odd := [field for field in record if field not in (*known, "edit")]:
        raise ValueError(
            f"{where}: {_word(name)} has no field {odd[0]!r}; it has "
            f"{', '.join(known).replace('layer', 'layers')}."
        )
    _check_fields(record, where)
    return {**record, "other": OTHER} if name in FROM_OTHER else record


def _check_fields(record: Record, where: str) -> None:
    """Raises ValueError if a field holds what no edit can have there."""
    from dsf.interventions.edits import from_json

    for field in NUMBERED:
        if not _is_numbered(record.get(field)):
            raise ValueError(
                f"{where}: {field} is {record[field]!r}; it must be a whole number, a list of "
                'them, or a range such as {"from": 0, "to": 4}.'
            )
    try:
        from_json(record)
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix('edits: ')}") from None
    for field in ("layer", *NUMBERED):
        if any(map(_is_empty, _listed_in(record.get(field)))):
            raise ValueError(
                f"{where}: {_typed(field)} has an empty range: the second number is one more than "
                "the last that is wanted, as in 0:4 for the first four."
            )
    for field in ("other", "over"):
        if record.get(field, OTHER) != OTHER:
            raise ValueError(f"{where}: {field} is {record[field]!r}; the other run is {OTHER!r}.")
    factor = record.get("factor", 0)
    if isinstance(factor, float) and not isfinite(factor):
        raise ValueError(f"{where}: factor is {factor}; it must be finite.")
    for field, least, why in (
        ("width", 1, "it counts tokens, the own one included"),
        ("order", 0, "it counts directions"),
    ):
        if record.get(field, least) < least:
            raise ValueError(f"{where}: {field} is {record[field]}, but {why}: at least {least}.")


def check_places(record: Record, count: int | None, there: int | None) -> None:
    """Whether the tokens of an edit are some of the input; ranges may reach beyond it.

    Args:
        count, there: how many tokens the input and that of the other run have; None where that is
            not known yet.

    Raises:
        ValueError: if not.
    """
    sizes = [("samples", 1), ("other_token", there)]
    sizes += [(field, count) for field in ("written", "read", "token", "tokens")]
    if record["edit"] == "StateFrom" and "other_token" not in record:
        sizes.append(("token", there))
    for field, size in sizes:
        numbers = [each for each in _listed_in(record.get(field)) if isinstance(each, int)]
        wrong = [each for each in numbers if size is not None and not -size <= each < size]
        if size is not None and wrong:
            what = "sample" if field == "samples" else "token"
            raise ValueError(
                f"the edit {_word(record['edit'])} has {field}={wrong[0]}, but there are {size} "
                f"{what}s, numbered from 0 to {size - 1}."
            )
    if count is None or "token" not in record:
        return
    token = record["token"] % count
    if record["edit"] == "Reduce" and token == 0:
        raise ValueError("the edit reduce has token=0, before which there is nothing to remember.")
    if record["edit"] == "StateFrom" and token == count - 1:
        raise ValueError(
            "the edit state-from has the last token, after which no other token reads the state."
        )


def _listed_in(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _typed(field: str) -> str:
    return "layers" if field == "layer" else field


def _is_empty(each: Any) -> bool:
    """Whether a range holds nothing, however many there are to choose from."""
    if not isinstance(each, dict) or each.get("step") is not None or each.get("to") is None:
        return False
    start, stop = each.get("from") or 0, each["to"]
    return (start < 0) == (stop < 0) and bool(start >= stop)


def takes_from_other(record: Record) -> bool:
    """Whether the edit needs another run."""
    return record["edit"] in FROM_OTHER or "over" in record


def _is_numbered(value: Any) -> bool:
    if isinstance(value, list):
        return all(each is not None and _is_numbered(each) for each in value)
    is_range = isinstance(value, dict) and set(value) <= {"from", "to", "step"}
    return value is None or is_range or (isinstance(value, int) and not isinstance(value, bool))


def _kind(word: str) -> str:
    plain = word.replace("-", "").replace("_", "").lower()
    return next((name for name in EDITS if name.lower() == plain), word)


def _word(name: str) -> str:
    """``map-from`` for ``MapFrom``."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]


def _form(words: str, wrong: str) -> str:
    return (
        f"--edit {words!r}: {wrong}. Write the name of an edit, then its fields, such as "
        "'cut layers=*.3.* heads=2 read=5'."
    )


def _number(word: str) -> int:
    return whole(word)


def _factor(word: str) -> float:
    return real(word)


def _either(word: str) -> bool:
    plain = word.lower()
    if plain not in ("yes", "no", "true", "false"):
        raise ValueError
    return plain in ("yes", "true")


def _layers(word: str) -> list[Any]:
    """Numbers, ranges, names and patterns."""
    found = [_one(part, names=True) for part in word.split(",") if part]
    if not found:
        raise ValueError
    return found


def _heads(word: str) -> list[Any]:
    return [_one(part, names=False) for part in word.split(",")]


def _tokens(word: str) -> Any:
    if ":" in word:
        return _one(word, names=False)
    several = [whole(part) for part in word.split(",")]
    return several if len(several) > 1 else several[0]


def _one(word: str, *, names: bool) -> Any:
    bounds = word.split(":")
    try:
        if len(bounds) == 1:
            return whole(word)
        start, stop = (whole(bound) if bound else None for bound in bounds)
    except ValueError:
        if names:
            return word
        raise
    return {"from": start, "to": stop, "step": None}


READ: dict[str, Callable[[str], Any]] = {
    "layer": _layers,
    "heads": _heads,
    **dict.fromkeys(("samples", "written", "read", "tokens"), _tokens),
    **dict.fromkeys(("width", "order", "token", "other_token"), _number),
    "factor": _factor,
    **dict.fromkeys(("renormalise", "keep"), _either),
}
FORMS: dict[Callable[[str], Any] | None, str] = {
    _layers: "numbers, ranges such as 0:4, names or patterns",
    _heads: "whole numbers with commas between them, or a range such as 0:4",
    _tokens: "whole numbers with commas between them, or a range such as 0:4",
    _number: "a whole number",
    _factor: "a number",
    _either: "yes or no",
}
EXAMPLES = {
    "layer": "layers=*.3.*",
    "factor": "factor=0.5",
    "width": "width=8",
    "token": "token=5",
    "order": "order=4",
}
